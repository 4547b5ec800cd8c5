//! Conditions that a SQL source can decide as the transform would: the same rows, NULLs included, or nothing is pushed.
//!
//! Columns are compared with literals only. Whole numbers, exact decimals, dates, timestamps and truth values agree on every operator; text
//! agrees on being equal only, since order is a collation's. Floats stay (PostgreSQL sorts NaN above all), and so do enums (an unknown word
//! is an error there), `character(n)` (equal whatever blanks follow), and unbounded decimals. In SQLite, which keeps dates, decimals and
//! truth values in other types, whole numbers and text are pushed.

use datafusion::sql::sqlparser::ast::{BinaryOperator, DataType, Expr, TypedString, UnaryOperator, Value};

use crate::data::{Column, Schema, Type};
use crate::dialect::Dialect;

/// The parts of a condition that the source can decide, joined by `AND`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Push {
    /// In the source's own SQL.
    pub sql: String,
    /// Whether it is the whole condition.
    pub whole: bool,
}

/// What of a condition over columns can be pushed; `None` when nothing can.
pub(super) fn condition(expr: &Expr, schema: &Schema, dialect: Dialect) -> Option<Push> {
    let translator = Translator { schema, dialect };
    let mut parts = Vec::new();
    conjuncts(expr, &mut parts);
    let pushed: Vec<String> = parts.iter().filter_map(|part| translator.condition(part)).collect();
    (!pushed.is_empty()).then(|| Push { whole: pushed.len() == parts.len(), sql: pushed.join(" AND ") })
}

fn conjuncts<'a>(expr: &'a Expr, parts: &mut Vec<&'a Expr>) {
    match expr {
        Expr::Nested(inner) => conjuncts(inner, parts),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(left, parts);
            conjuncts(right, parts);
        }
        other => parts.push(other),
    }
}

struct Translator<'a> {
    schema: &'a Schema,
    dialect: Dialect,
}

impl Translator<'_> {
    fn condition(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Nested(inner) => self.condition(inner),
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                Some(format!("({} {op} {})", self.condition(left)?, self.condition(right)?))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Some(format!("(NOT {})", self.condition(expr)?)),
            Expr::IsNull(inner) => Some(format!("{} IS NULL", self.name(self.column(inner)?)?)),
            Expr::IsNotNull(inner) => Some(format!("{} IS NOT NULL", self.name(self.column(inner)?)?)),
            Expr::IsTrue(inner) => Some(format!("({} IS TRUE)", self.truth(inner)?)),
            Expr::IsNotTrue(inner) => Some(format!("({} IS NOT TRUE)", self.truth(inner)?)),
            Expr::IsFalse(inner) => Some(format!("({} IS FALSE)", self.truth(inner)?)),
            Expr::IsNotFalse(inner) => Some(format!("({} IS NOT FALSE)", self.truth(inner)?)),
            Expr::Identifier(_) => self.truth(expr),
            Expr::BinaryOp { left, op, right } => self.comparison(left, op, right),
            Expr::Between { expr, negated, low, high } => {
                let column = self.column(expr)?;
                if !self.ordered(column) {
                    return None;
                }
                let (low, high) = (self.literal(low, column)?, self.literal(high, column)?);
                Some(format!("({}{} BETWEEN {low} AND {high})", self.name(column)?, if *negated { " NOT" } else { "" }))
            }
            Expr::InList { expr, list, negated } => {
                let column = self.column(expr)?;
                let items: Vec<String> = list.iter().map(|item| self.literal(item, column)).collect::<Option<_>>()?;
                let not = if *negated { " NOT" } else { "" };
                (!items.is_empty()).then_some(())?;
                Some(format!("({}{not} IN ({}))", self.compared(column)?, items.join(", ")))
            }
            _ => None,
        }
    }

    fn comparison(&self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<String> {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        let mirrored = match op {
            Eq => Eq,
            NotEq => NotEq,
            Lt => Gt,
            LtEq => GtEq,
            Gt => Lt,
            GtEq => LtEq,
            _ => return None,
        };
        let (column, op, literal) = match self.column(left) {
            Some(column) => (column, op.clone(), right),
            None => (self.column(right)?, mirrored, left),
        };
        if !matches!(op, Eq | NotEq) && !self.ordered(column) {
            return None;
        }
        Some(format!("{} {op} {}", self.compared(column)?, self.literal(literal, column)?))
    }

    /// The column an expression is. Names were resolved before. PostgreSQL's columns without a native type are read in their text form, and
    /// hold something else there: `IS NULL` of a composite value asks for its fields.
    fn column(&self, expr: &Expr) -> Option<&Column> {
        match expr {
            Expr::Nested(inner) => self.column(inner),
            Expr::Identifier(name) => {
                let (_, column) = self.schema.find(&name.value)?;
                (column.native.is_some() || self.dialect != Dialect::Postgres).then_some(column)
            }
            _ => None,
        }
    }

    fn name(&self, column: &Column) -> Option<String> {
        self.dialect.ident(&column.name).ok()
    }

    /// The column as a comparison names it.
    fn compared(&self, column: &Column) -> Option<String> {
        let name = self.name(column)?;
        Some(if self.dialect == Dialect::Sqlite && column.ty == Type::Text { format!("{name} COLLATE BINARY") } else { name })
    }

    fn truth(&self, expr: &Expr) -> Option<String> {
        let column = self.column(expr)?;
        (column.ty == Type::Bool && self.dialect == Dialect::Postgres).then_some(())?;
        self.name(column)
    }

    /// Whether both sides agree on the order of the column's values.
    fn ordered(&self, column: &Column) -> bool {
        match column.ty {
            Type::Int(_) => true,
            Type::Decimal(..) | Type::Date | Type::Timestamp | Type::TimestampTz | Type::Bool => self.dialect == Dialect::Postgres,
            _ => false,
        }
    }

    /// A literal of the column's own type, in the source's SQL.
    fn literal(&self, expr: &Expr, column: &Column) -> Option<String> {
        let (expr, sign) = match expr {
            Expr::Nested(inner) => return self.literal(inner, column),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => (expr.as_ref(), "-"),
            other => (other, ""),
        };
        let postgres = self.dialect == Dialect::Postgres;
        let text = match expr {
            Expr::Value(value) => match &value.value {
                Value::Number(digits, _) => return self.number(&format!("{sign}{digits}"), column),
                Value::Boolean(value) if column.ty == Type::Bool && postgres => return Some(self.dialect.bool(*value).to_owned()),
                Value::SingleQuotedString(text) => text,
                _ => return None,
            },
            Expr::TypedString(TypedString { data_type: DataType::Date | DataType::Timestamp(None, _), value, .. })
                if column.ty != Type::Text =>
            {
                match &value.value {
                    Value::SingleQuotedString(text) => text,
                    _ => return None,
                }
            }
            _ => return None,
        };
        if !sign.is_empty() {
            return None;
        }
        match column.ty {
            Type::Text if self.plain_text(column) => self.dialect.text(text).ok(),
            Type::Date if postgres && text.len() == 10 => {
                let date: jiff::civil::Date = text.parse().ok()?;
                Some(self.dialect.date(&date.to_string()))
            }
            Type::Timestamp if postgres => Some(format!("TIMESTAMP '{}'", micros(text, false)?)),
            Type::TimestampTz if postgres => Some(self.dialect.timestamp(&micros(text, true)?)),
            _ => None,
        }
    }

    fn number(&self, text: &str, column: &Column) -> Option<String> {
        match column.ty {
            Type::Int(_) => text.parse::<i64>().ok().map(|value| value.to_string()),
            Type::Decimal(..) if self.dialect == Dialect::Postgres => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.len() < 38;
                plain.then(|| text.to_owned())
            }
            _ => None,
        }
    }

    /// Whether equal means the same characters, by the column's own type in the source.
    fn plain_text(&self, column: &Column) -> bool {
        let native = column.native.as_deref().unwrap_or_default().to_ascii_lowercase();
        match self.dialect {
            Dialect::Postgres => native == "text" || native.starts_with("character varying") || native.starts_with("varchar"),
            // The types to which SQLite gives text affinity.
            Dialect::Sqlite => ["char", "clob", "text"].iter().any(|word| native.contains(word)) && !native.contains("int"),
            Dialect::DataFusion => false,
        }
    }
}

/// A text as an instant (UTC where it says no zone) or a naive time, in plain ISO form. Only what holds no finer parts than microseconds.
fn micros(text: &str, instant: bool) -> Option<String> {
    let text = text.trim();
    if text.split_once('.').is_some_and(|(_, fraction)| fraction.bytes().take_while(u8::is_ascii_digit).count() > 6) {
        return None;
    }
    let naive = text.parse::<jiff::civil::DateTime>().ok().filter(|_| !zoned(text));
    if !instant {
        return naive.map(|time| time.to_string());
    }
    let time = match naive {
        Some(time) => time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(),
        None => text.parse().ok()?,
    };
    Some(time.to_string())
}

/// Whether a timestamp's text ends in a zone.
fn zoned(text: &str) -> bool {
    let time = text.get(10..).unwrap_or_default();
    time.contains(['Z', 'z', '+', '-', '['])
}

#[cfg(test)]
mod tests {
    use super::super::sql::{Names, expression};
    use super::*;

    fn schema() -> Schema {
        let column = |name: &str, ty: Type, native: &str| Column { native: Some(native.to_owned()), ..Column::new(name, ty) };
        Schema {
            columns: vec![
                column("id", Type::Int(64), "bigint"),
                column("total", Type::Decimal(12, 2), "numeric(12,2)"),
                column("note", Type::Text, "text"),
                column("code", Type::Text, "character(4)"),
                column("at", Type::TimestampTz, "timestamp with time zone"),
                column("local", Type::Timestamp, "timestamp without time zone"),
                column("day", Type::Date, "date"),
                column("ok", Type::Bool, "boolean"),
                column("x", Type::Float(64), "double precision"),
                column("n", Type::Number, "numeric"),
                Column::new("pair", Type::Text),
            ],
        }
    }

    fn pushed(sql: &str, dialect: Dialect) -> Option<Push> {
        let schema = schema();
        let names = Names::new(schema.columns.iter().map(|column| column.name.as_str()));
        condition(&expression(sql, &names).expect(sql).0, &schema, dialect)
    }

    fn whole(sql: &str, dialect: Dialect, expected: &str) {
        assert_eq!(pushed(sql, dialect), Some(Push { sql: expected.to_owned(), whole: true }), "{sql}");
    }

    #[test]
    fn postgres_decides_what_it_decides_alike() {
        let check = |sql: &str, expected: &str| whole(sql, Dialect::Postgres, expected);
        check("ID > 5 and 7 >= id", "\"id\" > 5 AND \"id\" <= 7");
        check("id = -9223372036854775808", "\"id\" = -9223372036854775808");
        check("total <> 1.50 or total is null", "(\"total\" <> 1.50 OR \"total\" IS NULL)");
        check("not (ok and ok is not true)", "(NOT (\"ok\" AND (\"ok\" IS NOT TRUE)))");
        check("note in ('a', 'it''s') and note <> '\\'", "(\"note\" IN ('a', 'it''s')) AND \"note\" <> E'\\\\'");
        check("day between '2020-01-01' and date '2020-12-31'", "(\"day\" BETWEEN DATE '2020-01-01' AND DATE '2020-12-31')");
        check("at >= '2020-01-01'", "\"at\" >= TIMESTAMPTZ '2020-01-01T00:00:00Z'");
        check("at < '2020-01-01T00:00:00.5+02:00'", "\"at\" < TIMESTAMPTZ '2019-12-31T22:00:00.5Z'");
        check("local = timestamp '2020-01-01 10:00:00'", "\"local\" = TIMESTAMP '2020-01-01T10:00:00'");
        check("id not in (1, 2)", "(\"id\" NOT IN (1, 2))");
    }

    #[test]
    fn sqlite_decides_whole_numbers_and_equal_texts() {
        whole("id >= 5 and note = 'a'", Dialect::Sqlite, "\"id\" >= 5 AND \"note\" COLLATE BINARY = 'a'");
        whole("total is not null", Dialect::Sqlite, "\"total\" IS NOT NULL");
        for sql in ["total > 1", "day = '2020-01-01'", "at > '2020-01-01'", "ok", "note > 'a'"] {
            assert_eq!(pushed(sql, Dialect::Sqlite), None, "{sql}");
        }
    }

    #[test]
    fn what_could_differ_stays() {
        let rest = [
            "x > 1",
            "n = 1",
            "note > 'a'",
            "code = 'a'",
            "id = 1.5",
            "id = '1'",
            "note like 'a%'",
            "upper(note) = 'A'",
            "id = total",
            "id = null",
            "id in (1, null)",
            "at > '2020-01-01T00:00:00.1234567Z'",
            "local > '2020-01-01T00:00:00Z'",
            "total > 1e3",
            "id > 1 or x > 1",
            "day > 'today'",
            "id is distinct from 1",
            "pair is not null",
            "pair = 'a'",
        ];
        for sql in rest {
            assert_eq!(pushed(sql, Dialect::Postgres), None, "{sql}");
        }
        assert_eq!(pushed("x > 1 and id > 1", Dialect::Postgres), Some(Push { sql: "\"id\" > 1".to_owned(), whole: false }));
    }
}
