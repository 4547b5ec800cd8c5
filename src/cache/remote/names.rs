//! The names of hashes.

use arrow::array::{Array, ArrayRef};

use crate::data::text::Printer;
use crate::data::{Schema, Type};
use crate::define::pipeline::RESERVED;
use crate::load::template::{KeyTemplate, Part};

/// How the keys of one cache are named. No two keys have one name: what stands in a value and could be taken for the text between two columns
/// is escaped.
pub struct Names {
    template: KeyTemplate,
    /// Of each column of the template, its place in the key.
    places: Vec<usize>,
    types: Vec<Type>,
    /// The bytes of the texts between columns.
    separators: Vec<u8>,
}

impl Names {
    /// `key` are the numbers of the columns that name a row; the template has each of them once.
    pub fn new(template: &KeyTemplate, schema: &Schema, key: &[usize]) -> Self {
        let place = |name: &str| key.iter().position(|column| schema.columns[*column].name == name).unwrap_or_default();
        let parts = template.parts();
        let is_column = |part: &Part| matches!(part, Part::Column(_));
        let (first, last) = (parts.iter().position(is_column).unwrap_or(0), parts.iter().rposition(is_column).unwrap_or(0));
        let text = |part: &Part| if let Part::Text(text) = part { text.clone().into_bytes() } else { Vec::new() };
        Self {
            template: template.clone(),
            places: template.columns().map(place).collect(),
            types: key.iter().map(|column| schema.columns[*column].ty.clone()).collect(),
            separators: parts[first..=last.max(first)].iter().flat_map(text).collect(),
        }
    }

    /// The names of some keys, given as columns, without a generation.
    pub fn of(&self, keys: &[ArrayRef]) -> Vec<Vec<u8>> {
        let printers: Vec<Printer<'_>> = keys.iter().zip(&self.types).map(|(array, ty)| Printer::new(array, ty)).collect();
        let name = |row: usize| {
            let mut name = Vec::with_capacity(32);
            let mut columns = self.places.iter();
            for part in self.template.parts() {
                match part {
                    Part::Text(text) => name.extend_from_slice(text.as_bytes()),
                    Part::Column(_) => {
                        let start = name.len();
                        if let Some(printer) = columns.next().and_then(|place| printers.get(*place)).filter(|printer| !printer.is_null(row))
                        {
                            printer.print_raw(row, &mut name);
                        }
                        self.escape(&mut name, start);
                    }
                }
            }
            name
        };
        (0..keys.first().map_or(0, |column| column.len())).map(name).collect()
    }

    /// Writes what could be taken for a separator as `%` and two digits.
    fn escape(&self, name: &mut Vec<u8>, start: usize) {
        let special = |byte: &u8| self.separators.contains(byte) || (*byte == b'%' && !self.separators.is_empty());
        if !name[start..].iter().any(special) {
            return;
        }
        for byte in name.split_off(start) {
            if special(&byte) { name.extend_from_slice(format!("%{byte:02X}").as_bytes()) } else { name.push(byte) }
        }
    }

    /// The name of the control hash: that of every key, with a star for each column. Copies of a server leave it out, as all of haul's records.
    pub fn control(&self) -> Vec<u8> {
        let part = |part: &Part| if let Part::Text(text) = part { text.replace(['{', '}'], "_") } else { "*".to_owned() };
        format!("{RESERVED}{}}}:cache", self.template.parts().iter().map(part).collect::<String>()).into_bytes()
    }

    /// What the names of all generations match, and maybe others.
    pub fn pattern(&self) -> String {
        format!("{}@*", self.template.pattern())
    }
}

/// The name in a generation.
pub fn in_generation(name: &[u8], generation: u64) -> Vec<u8> {
    [name, format!("@{generation}").as_bytes()].concat()
}

/// The generation of a name.
pub fn generation_of(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name.rsplit(|byte| *byte == b'@').next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;
    use crate::data::Column;
    use crate::load::template::Holes;

    #[test]
    fn no_two_keys_have_one_name() {
        let template = |text: &str| {
            let holes = Holes::cut(text).expect("a template");
            holes.fill(&holes.text).expect("a key")
        };
        let schema = Schema { columns: vec![Column::new("n", Type::Int(64)), Column::new("b", Type::Text), Column::new("a", Type::Text)] };
        let names = Names::new(&template("p:{{ a }}:{{ b }}"), &schema, &[1, 2]);
        let text = |values: [&str; 4]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        // In the order of the key, which is not that of the name.
        let found = names.of(&[text(["y", "x:y", "é", "y%3A"]), text(["x", "", "%", "x"])]);
        let found: Vec<_> = found.iter().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(found, ["p:x:y", "p::x%3Ay", "p:%25:é", "p:x:y%253A"]);
        assert_eq!(names.control(), b"haul:{p:*:*}:cache");
        assert_eq!(names.pattern(), "p:*:*@*");

        let names = Names::new(&template("x:{{ n }}"), &schema, &[0]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(-7), None]));
        assert_eq!(names.of(&[numbers]), [b"x:-7".to_vec(), b"x:".to_vec()]);
        assert_eq!(generation_of(&in_generation(b"x:a@3", 12)), Some(12));
        assert_eq!(generation_of(b"x:a"), None);
    }
}
