//! A picture as pixels, with a font of its own: DejaVu Sans, its Latin, Greek and Cyrillic letters (cli/font).

use std::sync::Arc;

use anyhow::{Context as _, Result};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

const FONT: &[u8] = include_bytes!("../../font/DejaVuSans-subset.ttf");
/// Pixels of the longer side at most.
const LONGEST: f32 = 16_000.0;

/// Reads an SVG with that font.
pub fn tree(svg: &str) -> Result<Tree> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    let options = Options { font_family: "DejaVu Sans".into(), fontdb: Arc::new(fonts), ..Options::default() };
    Tree::from_str(svg, &options).context("the picture")
}

/// The PNG of an SVG, twice as large, that letters are sharp.
pub fn write(svg: &str) -> Result<Vec<u8>> {
    let tree = tree(svg)?;
    let size = tree.size();
    let scale = (LONGEST / size.width().max(size.height())).min(2.0);
    let pixels = |length: f32| (length * scale).ceil().max(1.0) as u32;
    let mut pixmap = Pixmap::new(pixels(size.width()), pixels(size.height())).context("the picture is too large")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().context("the picture")
}

#[cfg(test)]
mod tests {
    use resvg::usvg::{Group, Node};

    use super::super::layout::place;
    use super::super::tests::mesh;
    use super::super::{Graph, svg};
    use super::*;

    #[test]
    fn pictures_are_not_empty_and_all_labels_lie_inside_and_are_drawn() {
        for (peers, clusters) in [(1, 1), (3, 2), (12, 3), (30, 3), (300, 3), (300, 40)] {
            let graph = mesh(peers, clusters);
            let picture = place(&graph);
            let tree = tree(&svg::write(&picture)).unwrap();
            let mut texts = Vec::new();
            all_texts(tree.root(), &mut texts);
            assert_eq!(texts.len(), picture.texts.len(), "{peers} peers: each text is drawn");
            assert!(texts.len() >= peers);
            let size = tree.size();
            for (text, bounds) in texts {
                let inside =
                    bounds.left() >= 0.0 && bounds.top() >= 0.0 && bounds.right() <= size.width() && bounds.bottom() <= size.height();
                assert!(inside && bounds.width() > 1.0, "{peers} peers: {text:?} lies at {bounds:?} in {size:?}");
            }
        }
    }

    #[test]
    fn pixels_show_lines_of_each_kind_and_letters() {
        let png = write(&svg::write(&place(&mesh(12, 3)))).unwrap();
        let pixmap = Pixmap::decode_png(&png).unwrap();
        let count = |r, g, b| pixmap.pixels().iter().filter(|pixel| (pixel.red(), pixel.green(), pixel.blue()) == (r, g, b)).count();
        assert!(count(0x2e, 0x7d, 0x32) > 500, "direct");
        assert!(count(0xc6, 0x5d, 0x00) > 500, "relayed");
        assert!(count(0x21, 0x21, 0x21) > 500, "letters");
        assert!(count(0xff, 0xff, 0xff) > pixmap.pixels().len() / 4, "paper");
    }

    #[test]
    fn names_of_others_cannot_break_out_of_the_picture() {
        let mut graph = mesh(3, 1);
        graph.peers[0].name = "</text><script>\"&\u{0}\u{7}'".into();
        let text = svg::write(&place(&graph));
        assert!(!text.contains("<script>") && tree(&text).is_ok(), "{text}");
        assert!(tree(&svg::write(&place(&Graph::default()))).is_ok());
    }

    /// Looks at pictures: `CAMPFIRE_PICTURES=dir cargo test -p campfire-cli pictures_to_look_at`.
    #[test]
    fn pictures_to_look_at() {
        let Some(dir) = std::env::var_os("CAMPFIRE_PICTURES").map(std::path::PathBuf::from) else { return };
        for (peers, clusters) in [(3, 2), (12, 3), (30, 3), (300, 3), (300, 12)] {
            let svg = svg::write(&place(&mesh(peers, clusters)));
            std::fs::write(dir.join(format!("{peers}-{clusters}.svg")), &svg).unwrap();
            std::fs::write(dir.join(format!("{peers}-{clusters}.png")), write(&svg).unwrap()).unwrap();
        }
    }

    fn all_texts(group: &Group, out: &mut Vec<(String, resvg::tiny_skia::Rect)>) {
        for node in group.children() {
            match node {
                Node::Text(text) => {
                    let said = text.chunks().iter().map(|chunk| chunk.text().to_owned()).collect::<String>();
                    out.push((said, text.abs_bounding_box()));
                }
                Node::Group(group) => all_texts(group, out),
                Node::Path(_) | Node::Image(_) => {}
            }
        }
    }
}
