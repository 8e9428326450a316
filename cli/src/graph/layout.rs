//! Where everything stands in the picture. Pure.
//!
//! Few peers stand in a ring, each pair with a line of its own. Many stand in boxes, one for each cluster, and the lines between two boxes are one: 300
//! peers are 44,850 pairs, of which nobody could see one.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use super::{Graph, Link, Way};
use campfire_text::{count, milliseconds, printable};

/// More peers than this, and they stand in boxes.
pub const FEW: usize = 12;
/// More than this, and the numbers at the lines (tips keep them) would cover the picture.
const NUMBERED: usize = 8;
/// More boxes than this, and what their lines mean stands in the tips alone.
const LABELLED: usize = 5;
/// Characters of a name at most.
const LONGEST: usize = 48;
/// Around everything.
const MARGIN: f64 = 24.0;
/// Size of letters.
const LETTERS: f64 = 12.0;
/// The same in boxes.
const SMALL: f64 = 10.0;

/// What lines mean.
pub const DIRECT: &str = "#2e7d32";
const NONE: &str = "#9e9e9e";
const INK: &str = "#212121";
const SERVERS: [&str; 6] = ["#c65d00", "#6a1b9a", "#00696b", "#ad1457", "#1a56b0", "#5d4037"];
const CLUSTERS: [&str; 7] = ["#e3f2fd", "#e8f5e9", "#fce4ec", "#f3e5f5", "#fffde7", "#e0f7fa", "#efebe9"];

/// What is drawn, in this order: lines, boxes, dots, texts. All lies within width and height.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// In pixels.
    pub width: f64,
    /// In pixels.
    pub height: f64,
    /// Lines.
    pub lines: Vec<Line>,
    /// Boxes.
    pub boxes: Vec<Rect>,
    /// Dots.
    pub dots: Vec<Dot>,
    /// Texts.
    pub texts: Vec<Text>,
}

/// A point.
pub type Point = (f64, f64);

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Both ends.
    pub ends: (Point, Point),
    /// Its colour.
    pub colour: &'static str,
    /// Its width.
    pub width: f64,
    /// Its dashes and gaps; empty: solid.
    pub dashes: &'static str,
    /// What it says when it is pointed at.
    pub tip: String,
}

/// A box, by its middle.
#[derive(Clone, Debug, PartialEq)]
pub struct Rect {
    /// Its middle.
    pub at: Point,
    /// Width and height.
    pub size: Point,
    /// Its colour.
    pub fill: &'static str,
    /// Has a border.
    pub bordered: bool,
}

/// A dot.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    /// Its middle.
    pub at: Point,
    /// Its colour.
    pub fill: &'static str,
}

/// A line of text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Left end, or middle, of its base line.
    pub at: Point,
    /// `at` is its middle.
    pub middle: bool,
    /// Size of the letters.
    pub size: f64,
    /// Its colour.
    pub fill: &'static str,
    /// What it says.
    pub text: String,
}

/// The picture of a graph.
pub fn place(graph: &Graph) -> Picture {
    let mut picture = Picture::default();
    if graph.peers.len() <= FEW {
        ring_of_peers(&mut picture, graph);
    } else {
        boxes_of_clusters(&mut picture, graph);
    }
    legend(&mut picture, graph);
    picture.frame();
    picture
}

/// How a way is drawn.
fn style(way: Way) -> (&'static str, &'static str) {
    match way {
        Way::Direct => (DIRECT, ""),
        Way::Relay(server) => (SERVERS[server % SERVERS.len()], "7 4"),
        Way::None => (NONE, "2 4"),
    }
}

fn words(graph: &Graph, way: Way) -> String {
    match way {
        Way::Direct => "direct".into(),
        Way::Relay(server) => format!("via {}", graph.servers.get(server).map_or_else(String::new, |server| shorten(server))),
        Way::None => "not connected".into(),
    }
}

/// Few peers: in a ring, clusters side by side.
fn ring_of_peers(picture: &mut Picture, graph: &Graph) {
    let clusters = clusters(graph);
    let names: Vec<[String; 2]> = graph.peers.iter().map(|peer| [shorten(&peer.name), shorten(&peer.cluster)]).collect();
    let sizes: Vec<Point> = names
        .iter()
        .map(|[name, cluster]| {
            let lines = if cluster.is_empty() { 1.0 } else { 2.0 };
            (width(name, LETTERS).max(width(cluster, SMALL)) + 20.0, lines * 16.0 + 10.0)
        })
        .collect();
    let places = ring(&sizes, 30.0, 140.0);
    let mut taken: Vec<(Point, Point)> = places.iter().copied().zip(sizes.iter().copied()).collect();
    for link in &graph.links {
        let (from, to) = (places[link.ends.0], places[link.ends.1]);
        let (colour, dashes) = style(link.way);
        picture.lines.push(Line { ends: (from, to), colour, width: 1.6, dashes, tip: tip(graph, link) });
        if let Some(rtt) = link.rtt_ms.filter(|_| link.way != Way::None && graph.peers.len() <= NUMBERED) {
            let (line, text) = (visible((from, sizes[link.ends.0]), (to, sizes[link.ends.1])), milliseconds(rtt));
            // Not in the middle, where the lines of a ring cross. Where there is no room at all, the tip has it.
            if let Some(at) = room(line, 0.3, label_size(&text), &mut taken) {
                picture.label(at, &text, colour);
            }
        }
    }
    for ((at, size), (peer, [name, cluster])) in places.iter().zip(&sizes).zip(graph.peers.iter().zip(names)) {
        let fill = CLUSTERS[clusters.keys().position(|known| **known == peer.cluster).unwrap_or(0) % CLUSTERS.len()];
        picture.boxes.push(Rect { at: *at, size: *size, fill, bordered: true });
        let up = if cluster.is_empty() { 4.0 } else { -3.0 };
        picture.text((at.0, at.1 + up), true, LETTERS, INK, name);
        if !cluster.is_empty() {
            picture.text((at.0, at.1 + 13.0), true, SMALL, "#616161", cluster);
        }
    }
}

/// Many: a box for each cluster.
fn boxes_of_clusters(picture: &mut Picture, graph: &Graph) {
    let clusters = clusters(graph);
    let groups: Vec<(&str, &Vec<usize>)> = clusters.iter().map(|(name, peers)| (*name, peers)).collect();
    let group_of: BTreeMap<usize, usize> =
        groups.iter().enumerate().flat_map(|(group, (_, peers))| peers.iter().map(move |peer| (*peer, group))).collect();
    let grids: Vec<Grid> = groups.iter().map(|(name, peers)| Grid::of(graph, name, peers)).collect();
    let sizes: Vec<Point> = grids.iter().map(|grid| grid.size).collect();
    let gap = if groups.len() <= LABELLED { 230.0 } else { 60.0 };
    let places = ring(&sizes, gap, 0.0);
    let mut taken: Vec<(Point, Point)> = places.iter().copied().zip(sizes.iter().copied()).collect();
    // (group, group) → way → pairs.
    let mut bundles: BTreeMap<(usize, usize), BTreeMap<Way, usize>> = BTreeMap::new();
    for link in &graph.links {
        let (a, b) = (group_of[&link.ends.0], group_of[&link.ends.1]);
        *bundles.entry((a.min(b), a.max(b))).or_default().entry(link.way).or_default() += 1;
    }
    for ((a, b), ways) in bundles.iter().filter(|((a, b), _)| a != b) {
        let told: Vec<String> = ways.iter().map(|(way, pairs)| format!("{pairs} {}", words(graph, *way))).collect();
        let tip = format!("{} and {}: {}", title(groups[*a].0), title(groups[*b].0), told.join(", "));
        // Side by side, a line for each way.
        for (number, (way, pairs)) in ways.iter().enumerate() {
            let (colour, dashes) = style(*way);
            let aside = (number as f64 - (ways.len() as f64 - 1.0) / 2.0) * 8.0;
            let thick = 1.5 + (*pairs as f64).log2().max(0.0) * 0.4;
            picture.lines.push(Line { ends: shifted((places[*a], places[*b]), aside), colour, width: thick, dashes, tip: tip.clone() });
        }
        if groups.len() <= LABELLED {
            let labels: Vec<(String, Way)> = ways.iter().map(|(way, pairs)| (format!("{pairs} {}", words(graph, *way)), *way)).collect();
            let widest = labels.iter().map(|(text, _)| label_size(text).0).fold(0.0, f64::max);
            let line = visible((places[*a], sizes[*a]), (places[*b], sizes[*b]));
            let Some(at) = room(line, 0.45, (widest, labels.len() as f64 * 15.0), &mut taken) else { continue };
            for (number, (text, way)) in labels.iter().enumerate() {
                let down = (number as f64 - (labels.len() as f64 - 1.0) / 2.0) * 15.0;
                picture.label((at.0, at.1 + down), text, style(*way).0);
            }
        }
    }
    let worst = worst(graph);
    for (group, ((name, peers), grid)) in groups.iter().zip(&grids).enumerate() {
        let (at, size) = (places[group], grid.size);
        picture.boxes.push(Rect { at, size, fill: CLUSTERS[group % CLUSTERS.len()], bordered: true });
        let (left, top) = (at.0 - size.0 / 2.0, at.1 - size.1 / 2.0);
        picture.text((at.0, top + 20.0), true, LETTERS + 1.0, INK, format!("{}: {}", title(name), count(peers.len(), "peer")));
        for (place, peer) in peers.iter().enumerate() {
            let (x, y) = (left + 12.0 + (place / grid.rows) as f64 * grid.cell, top + 42.0 + (place % grid.rows) as f64 * 15.0);
            picture.dots.push(Dot { at: (x + 4.0, y - 3.5), fill: style(worst[*peer]).0 });
            picture.text((x + 13.0, y), false, SMALL, INK, shorten(&graph.peers[*peer].name));
        }
        let inside = bundles.get(&(group, group)).into_iter().flatten().map(|(way, pairs)| format!("{pairs} {}", words(graph, *way)));
        let inside = inside.collect::<Vec<_>>().join(", ");
        if !inside.is_empty() {
            picture.text((at.0, top + size.1 - 10.0), true, SMALL, "#616161", format!("pairs inside: {inside}"));
        }
    }
}

/// How the peers of a cluster fill its box.
struct Grid {
    rows: usize,
    cell: f64,
    size: Point,
}

impl Grid {
    fn of(graph: &Graph, name: &str, peers: &[usize]) -> Self {
        let widest = peers.iter().map(|peer| width(&shorten(&graph.peers[*peer].name), SMALL)).fold(0.0, f64::max);
        let cell = widest + 26.0;
        // As wide as high, or somewhat wider.
        let columns = (1..=peers.len()).find(|columns| peers.len().div_ceil(*columns) as f64 * 15.0 <= *columns as f64 * cell).unwrap_or(1);
        let rows = peers.len().div_ceil(columns).max(1);
        let head = width(&format!("{}: {}", title(name), count(peers.len(), "peer")), LETTERS + 1.0) + 30.0;
        // Room for what is said of the pairs inside.
        let wide = (peers.len().div_ceil(rows) as f64 * cell + 16.0).max(head).max(330.0);
        Self { rows, cell, size: (wide, rows as f64 * 15.0 + 62.0) }
    }
}

/// The worst way of each peer: what its dot shows.
fn worst(graph: &Graph) -> Vec<Way> {
    let mut worst = vec![None; graph.peers.len()];
    for link in &graph.links {
        for end in [link.ends.0, link.ends.1] {
            worst[end] = worst[end].max(Some(link.way));
        }
    }
    worst.into_iter().map(|way| way.unwrap_or(Way::None)).collect()
}

fn legend(picture: &mut Picture, graph: &Graph) {
    let mut pairs: BTreeMap<Way, usize> = BTreeMap::new();
    for link in &graph.links {
        *pairs.entry(link.way).or_default() += 1;
    }
    let (left, bottom) = picture.extent().map_or((0.0, 0.0), |((left, _), (_, bottom))| (left, bottom));
    for (row, (way, pairs)) in pairs.iter().enumerate() {
        let y = bottom + 36.0 + row as f64 * 18.0;
        let (colour, dashes) = style(*way);
        picture.lines.push(Line { ends: ((left, y - 4.0), (left + 40.0, y - 4.0)), colour, width: 2.0, dashes, tip: String::new() });
        picture.text((left + 50.0, y), false, LETTERS, INK, format!("{}: {}", words(graph, *way), count(*pairs, "pair")));
    }
    if graph.peers.len() > FEW {
        let y = bottom + 36.0 + pairs.len() as f64 * 18.0;
        picture.dots.push(Dot { at: (left + 20.0, y - 4.0), fill: INK });
        picture.text((left + 50.0, y), false, LETTERS, INK, "a peer, in the colour of the worst of its paths".into());
    }
    if graph.peers.is_empty() {
        picture.text((0.0, 0.0), false, LETTERS, INK, "nobody is there".into());
    }
}

impl Picture {
    fn text(&mut self, at: Point, middle: bool, size: f64, fill: &'static str, text: String) {
        self.texts.push(Text { at, middle, size, fill, text });
    }

    /// On a line, readable on top of it.
    fn label(&mut self, at: Point, text: &str, colour: &'static str) {
        self.boxes.push(Rect { at, size: label_size(text), fill: "#ffffff", bordered: false });
        self.text((at.0, at.1 + 3.5), true, SMALL, colour, text.to_owned());
    }

    /// Upper left and lower right of all.
    fn extent(&self) -> Option<(Point, Point)> {
        let boxes = self.boxes.iter().flat_map(|it| {
            [(it.at.0 - it.size.0 / 2.0, it.at.1 - it.size.1 / 2.0), (it.at.0 + it.size.0 / 2.0, it.at.1 + it.size.1 / 2.0)]
        });
        let texts = self.texts.iter().flat_map(|it| {
            let wide = width(&it.text, it.size);
            let left = if it.middle { it.at.0 - wide / 2.0 } else { it.at.0 };
            [(left, it.at.1 - it.size), (left + wide, it.at.1 + it.size * 0.3)]
        });
        let lines = self.lines.iter().flat_map(|it| [it.ends.0, it.ends.1]);
        let dots = self.dots.iter().map(|it| it.at);
        boxes.chain(texts).chain(lines).chain(dots).fold(None, |extent, (x, y)| {
            let ((left, top), (right, bottom)) = extent.unwrap_or(((x, y), (x, y)));
            Some(((f64::min(left, x), f64::min(top, y)), (f64::max(right, x), f64::max(bottom, y))))
        })
    }

    /// Moves all so that it begins at a margin, and takes the size of it.
    fn frame(&mut self) {
        let Some(((left, top), (right, bottom))) = self.extent() else { return };
        let moved = |(x, y): Point| (x - left + MARGIN, y - top + MARGIN);
        self.lines.iter_mut().for_each(|line| line.ends = (moved(line.ends.0), moved(line.ends.1)));
        self.boxes.iter_mut().for_each(|it| it.at = moved(it.at));
        self.dots.iter_mut().for_each(|it| it.at = moved(it.at));
        self.texts.iter_mut().for_each(|it| it.at = moved(it.at));
        (self.width, self.height) = (right - left + 2.0 * MARGIN, bottom - top + 2.0 * MARGIN);
    }
}

fn clusters(graph: &Graph) -> BTreeMap<&str, Vec<usize>> {
    let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, peer) in graph.peers.iter().enumerate() {
        clusters.entry(&peer.cluster).or_default().push(place);
    }
    clusters
}

fn title(cluster: &str) -> String {
    if cluster.is_empty() { "no cluster".into() } else { shorten(cluster) }
}

/// Where boxes stand in the smallest ring in which none comes nearer to another than `gap`.
fn ring(sizes: &[Point], gap: f64, least: f64) -> Vec<Point> {
    let mut radius = if sizes.len() < 2 { 0.0 } else { least.max(40.0) };
    loop {
        let places: Vec<Point> = (0..sizes.len())
            .map(|place| {
                let angle = TAU * (place as f64 + 0.5) / sizes.len() as f64;
                // Wider than high, as boxes are.
                (angle.sin() * radius * 1.4, -angle.cos() * radius)
            })
            .collect();
        let apart = |a: usize, b: usize| {
            let (dx, dy) = ((places[a].0 - places[b].0).abs(), (places[a].1 - places[b].1).abs());
            dx >= f64::midpoint(sizes[a].0, sizes[b].0) + gap || dy >= f64::midpoint(sizes[a].1, sizes[b].1) + gap.min(90.0)
        };
        if (0..sizes.len()).all(|a| (a + 1..sizes.len()).all(|b| apart(a, b))) {
            return places;
        }
        radius = radius * 1.08 + 4.0;
    }
}

/// The part of a line between two boxes that neither covers.
fn visible(from: (Point, Point), to: (Point, Point)) -> (Point, Point) {
    let ((a, a_size), (b, b_size)) = (from, to);
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let covered = |size: Point| {
        let x = if dx == 0.0 { f64::INFINITY } else { size.0 / 2.0 / dx.abs() };
        let y = if dy == 0.0 { f64::INFINITY } else { size.1 / 2.0 / dy.abs() };
        x.min(y).min(0.5)
    };
    let (begin, end) = (covered(a_size), 1.0 - covered(b_size));
    (along((a, b), begin), along((a, b), end))
}

/// How much room a text on a line takes.
fn label_size(text: &str) -> Point {
    (width(text, SMALL) + 6.0, 14.0)
}

/// The place for a label of this size that is nearest to this share of a line and covers nothing that is there already: on the line, else a
/// little beside it. It is taken then.
fn room(line: (Point, Point), share: f64, size: Point, taken: &mut Vec<(Point, Point)>) -> Option<Point> {
    let free = |at: &Point| {
        taken.iter().all(|(other, theirs)| {
            (at.0 - other.0).abs() >= f64::midpoint(size.0, theirs.0) + 2.0
                || (at.1 - other.1).abs() >= f64::midpoint(size.1, theirs.1) + 2.0
        })
    };
    let shares = (0..=12).flat_map(|step| [share - f64::from(step) * 0.05, share + f64::from(step) * 0.05]);
    let shares: Vec<f64> = shares.filter(|share| (0.0..=1.0).contains(share)).collect();
    let asides = [0.0, 12.0, -12.0, 24.0, -24.0, 40.0, -40.0];
    let mut places = asides.into_iter().flat_map(|aside| shares.iter().map(move |share| along(shifted(line, aside), *share)));
    let found = places.find(free)?;
    taken.push((found, size));
    Some(found)
}

fn along((a, b): (Point, Point), share: f64) -> Point {
    (a.0 + (b.0 - a.0) * share, a.1 + (b.1 - a.1) * share)
}

/// The line moved aside.
fn shifted((a, b): (Point, Point), aside: f64) -> (Point, Point) {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx.hypot(dy).max(1.0);
    let (x, y) = (-dy / length * aside, dx / length * aside);
    ((a.0 + x, a.1 + y), (b.0 + x, b.1 + y))
}

fn tip(graph: &Graph, link: &Link) -> String {
    let [from, to] = [link.ends.0, link.ends.1].map(|end| printable(&graph.peers[end].name));
    let rtt = link.rtt_ms.map(|rtt| format!(", {}", milliseconds(rtt))).unwrap_or_default();
    let why = if link.why.is_empty() { String::new() } else { format!(": {}", printable(&link.why)) };
    format!("{from} and {to}: {}{rtt}{why}", words(graph, link.way))
}

fn shorten(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// How wide letters are: DejaVu Sans, from U+0020 on, in 2,048ths of its size. Verdana is as wide, and others are narrower.
const WIDTHS: [u16; 95] = [
    651, 821, 942, 1716, 1303, 1946, 1597, 563, 799, 799, 1024, 1716, 651, 739, 651, 690, 1303, 1303, 1303, 1303, 1303, 1303, 1303, 1303,
    1303, 1303, 690, 690, 1716, 1716, 1716, 1087, 2048, 1401, 1405, 1430, 1577, 1294, 1178, 1587, 1540, 604, 604, 1343, 1141, 1767, 1532,
    1612, 1235, 1612, 1423, 1300, 1251, 1499, 1401, 2025, 1403, 1251, 1403, 799, 690, 799, 1716, 1024, 1024, 1255, 1300, 1126, 1300, 1260,
    721, 1300, 1298, 569, 569, 1186, 569, 1995, 1298, 1253, 1300, 1300, 842, 1067, 803, 1298, 1212, 1675, 1212, 1212, 1075, 1303, 690,
    1303, 1716,
];

/// How wide a text is, at most.
pub fn width(text: &str, size: f64) -> f64 {
    let units = |c: char| (c as usize).checked_sub(32).and_then(|place| WIDTHS.get(place)).map_or(2_748.0, |width| f64::from(*width));
    text.chars().map(units).sum::<f64>() * size / 2_048.0
}

#[cfg(test)]
mod tests {
    use super::super::tests::mesh;
    use super::*;

    #[test]
    fn few_peers_have_a_line_for_each_pair_and_many_one_between_clusters() {
        let picture = place(&mesh(3, 2));
        // And three of the legend: direct, and each server.
        assert_eq!(picture.lines.len(), 3 + 3, "{:?}", picture.lines);
        let picture = place(&mesh(30, 2));
        let between = picture.lines.iter().filter(|line| line.tip.contains("cluster-0 and cluster-1")).count();
        assert_eq!(between, 2, "one for each server");
        assert!(picture.lines.len() < 10);
        assert_eq!(picture.dots.len(), 30 + 1, "and that of the legend");
        let large = place(&mesh(300, 3));
        assert!(large.lines.len() < 20 && large.dots.len() == 301, "{}", large.lines.len());
    }

    #[test]
    fn all_pairs_are_counted_in_the_legend() {
        let picture = place(&mesh(300, 3));
        let counted: usize =
            picture.texts.iter().filter_map(|text| text.text.strip_suffix(" pairs")?.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(counted, 44_850);
    }

    #[test]
    fn boxes_of_clusters_and_peers_and_what_stands_at_lines_cover_no_other() {
        let all = [(2, 1), (3, 2), (12, 5), (13, 1), (30, 3), (300, 3), (300, 12), (60, 60)];
        let meshes = all.into_iter().map(|(peers, clusters)| mesh(peers, clusters));
        let few = (2..=NUMBERED).flat_map(|peers| [mesh(peers, 1), mesh(peers, 2), short(mesh(peers, peers)), short(mesh(peers, 1))]);
        for graph in meshes.chain(few) {
            let (peers, clusters) = (graph.peers.len(), clusters(&graph).len());
            let picture = place(&graph);
            // Labels too, which have no border.
            let boxes: Vec<&Rect> = picture.boxes.iter().collect();
            assert!(!boxes.is_empty());
            if peers <= NUMBERED {
                let numbers = graph.links.iter().filter(|link| link.way != Way::None).count();
                assert_eq!(boxes.len(), peers + numbers, "each line of {peers} peers in {clusters} clusters has its number");
            }
            for (place, a) in boxes.iter().enumerate() {
                for b in &boxes[place + 1..] {
                    let apart = (a.at.0 - b.at.0).abs() >= f64::midpoint(a.size.0, b.size.0)
                        || (a.at.1 - b.at.1).abs() >= f64::midpoint(a.size.1, b.size.1);
                    assert!(apart, "{peers} peers in {clusters} clusters: {a:?} and {b:?}");
                }
            }
        }
    }

    /// As on machines of people.
    fn short(mut graph: Graph) -> Graph {
        graph.peers.iter_mut().enumerate().for_each(|(place, peer)| peer.name = format!("p{place}"));
        graph
    }

    #[test]
    fn nobody_is_a_picture_that_says_so() {
        let picture = place(&Graph::default());
        assert!(picture.width > 50.0 && picture.height > 20.0);
        assert_eq!(picture.texts[0].text, "nobody is there");
    }
}
