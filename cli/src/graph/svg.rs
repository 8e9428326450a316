//! A picture as SVG 1.1.

use std::fmt::Write as _;

use super::layout::Picture;

/// The picture.
pub fn write(picture: &Picture) -> String {
    let mut out = String::new();
    let (width, height) = (picture.width.ceil(), picture.height.ceil());
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"'DejaVu Sans', Verdana, sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    for line in &picture.lines {
        let ((x1, y1), (x2, y2)) = line.ends;
        let dashes = if line.dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{}\"", line.dashes) };
        let tip = if line.tip.is_empty() { "/>".to_owned() } else { format!("><title>{}</title></line>", escape(&line.tip)) };
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{}\" stroke-width=\"{:.1}\"{dashes}{tip}",
            line.colour, line.width
        );
    }
    for it in &picture.boxes {
        let (x, y) = (it.at.0 - it.size.0 / 2.0, it.at.1 - it.size.1 / 2.0);
        let border = if it.bordered { " stroke=\"#616161\"" } else { " fill-opacity=\"0.85\"" };
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"5\" fill=\"{}\"{border}/>",
            it.size.0, it.size.1, it.fill
        );
    }
    for dot in &picture.dots {
        let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\"/>", dot.at.0, dot.at.1, dot.fill);
    }
    for text in &picture.texts {
        let anchor = if text.middle { " text-anchor=\"middle\"" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{}\" fill=\"{}\"{anchor}>{}</text>",
            text.at.0,
            text.at.1,
            text.size,
            text.fill,
            escape(&text.text)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// Names come from others.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            // What XML 1.0 has no place for.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
