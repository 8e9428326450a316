//! How programs tell people: what `campfire` and `kubectl campfire` print alike. Names and reasons come from others, so nothing of them may move a
//! cursor or break out of a quotation.
//!
//! It knows nobody, and holds nothing.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

/// What others call themselves, without what would move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Columns as wide as their widest cell, with `gap` blanks between; the first row is the head.
pub fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}{:gap$}", "");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A round trip in milliseconds: two digits that count.
pub fn milliseconds(rtt: f64) -> String {
    if rtt < 10.0 { format!("{rtt:.1} ms") } else { format!("{rtt:.0} ms") }
}

/// `1 pod`, `2 pods`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A quoted string of Graphviz's DOT language.
pub fn dot_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_they_must_be_and_end_no_line_in_blanks() {
        let rows = [["A", "B"], ["long one", ""], ["x", "y"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, 3), "A          B\nlong one\nx          y\n");
        assert_eq!(table(&rows, 1), "A        B\nlong one\nx        y\n");
        assert_eq!(table(&[], 2), "");
    }

    #[test]
    fn names_of_others_move_no_cursor_and_end_no_quotation() {
        assert_eq!(printable("a\u{1b}[31m\n"), "a?[31m?");
        assert_eq!(dot_quoted("x\"];evil[label=\"\\\n\u{7}"), r#""x\"];evil[label=\"\\\n?""#);
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|number| count(number, "pod")), ["0 pods", "1 pod", "2 pods"]);
    }

    #[test]
    fn round_trips_have_two_digits_that_count() {
        assert_eq!([0.04, 9.94, 10.4, 250.0].map(milliseconds), ["0.0 ms", "9.9 ms", "10 ms", "250 ms"]);
    }
}
