//! Text for people.

use std::fmt::Write as _;

/// What others call themselves, without what would move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Columns as wide as their widest cell; the first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Round trips: two digits that count.
pub fn milliseconds(rtt: f64) -> String {
    if rtt < 10.0 { format!("{rtt:.1} ms") } else { format!("{rtt:.0} ms") }
}

/// `1 pod`, `2 pods`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_they_must_be_and_end_no_line_in_blanks() {
        let rows = [["A", "B"], ["long one", ""], ["x", "y"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A          B\nlong one\nx          y\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn names_of_others_move_no_cursor() {
        assert_eq!(printable("a\u{1b}[31m\n"), "a?[31m?");
    }
}
