//! Aligned columns.

use unicode_width::UnicodeWidthStr;

/// Where a column's texts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// One column: its heading, and where its texts stand.
pub(super) type Heading = (&'static str, Align);

/// Columns two spaces apart, as wide as their widest text, without spaces at the ends of lines. `paint` colours a cell after it has been
/// measured; it gets the row's number (`None` for the headings), the column's number and the padded text.
pub(super) fn table(headings: &[Heading], rows: &[Vec<String>], paint: impl Fn(Option<usize>, usize, &str) -> String) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
        cells.chain([headings[column].0.width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |row: Option<usize>, cells: &[&str]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.width()));
            let painted = if cell.is_empty() { String::new() } else { paint(row, column, cell) };
            line.push_str(if column == 0 { "" } else { "  " });
            line.push_str(&match headings[column].1 {
                Align::Left => painted + &padding,
                Align::Right => padding + &painted,
            });
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(None, &headings.iter().map(|(heading, _)| *heading).collect::<Vec<_>>())];
    lines.extend(rows.iter().enumerate().map(|(number, row)| line(Some(number), &row.iter().map(String::as_str).collect::<Vec<_>>())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_the_terminal_shows() {
        let rows = [vec!["注文".to_owned(), "1,000".to_owned()], vec!["a".to_owned(), "2".to_owned()], vec!["b".to_owned(), String::new()]];
        let text = table(&[("stage", Align::Left), ("rows", Align::Right)], &rows, |_, _, cell| cell.to_owned());
        assert_eq!(text, "stage   rows\n注文   1,000\na          2\nb");
    }
}
