//! Plots as SVG. Colours are classes of the page's style, so that they follow light and dark.

use std::fmt::Write;

/// The size of a plot: the width of a small phone, so that its text is never drawn smaller.
const WIDTH: f64 = 360.0;
/// The height of a plot of lines.
const HEIGHT: f64 = 236.0;
/// The room for labels.
const LEFT: f64 = 40.0;
/// The room on the right, for half of the last label.
const RIGHT: f64 = 14.0;
/// The room above the highest value.
const TOP: f64 = 10.0;
/// The room for the labels of the horizontal axis.
const BOTTOM: f64 = 38.0;

/// Most ticks of a vertical axis.
const TICKS_MAX: f64 = 6.0;

/// A line of a plot, with points in units of its axes.
#[derive(Clone, Debug)]
pub struct PlotLine {
    /// Its name in the legend.
    pub label: String,
    /// Its colour, by number.
    pub colour: usize,
    /// Drawn with dashes: a bound, not a measurement of the program.
    pub is_dashed: bool,
    /// Drawn with a dot for each point.
    pub has_dots: bool,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A plot of lines over labelled positions.
#[derive(Clone, Debug)]
pub struct LinePlot {
    /// A sentence that says the same to those who cannot see it.
    pub label: String,
    /// The unit of the vertical axis.
    pub unit: &'static str,
    /// The name of the horizontal axis.
    pub across: &'static str,
    /// Positions and labels of the horizontal axis.
    pub ticks: Vec<(f64, String)>,
    /// The lines.
    pub lines: Vec<PlotLine>,
}

impl LinePlot {
    /// Returns the plot.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = points().map(|point| point.1).fold(0.0, f64::max).max(1e-3);
        let step = tick_step(most);
        let top = (most / step).ceil() * step;
        let positions = || points().map(|point| point.0).chain(self.ticks.iter().map(|it| it.0));
        let least_x = positions().fold(f64::INFINITY, f64::min);
        let most_x = positions().fold(f64::NEG_INFINITY, f64::max);
        // A single position stands in the middle.
        let (from, to) =
            if most_x > least_x { (least_x, most_x) } else { (least_x - 1.0, least_x + 1.0) };
        let x = |at: f64| LEFT + (at - from) / (to - from) * (WIDTH - LEFT - RIGHT);
        let y = |at: f64| HEIGHT - BOTTOM - at / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = open(&self.label, HEIGHT);
        let ticks = (0..).map(|index| f64::from(index) * step);
        for tick in ticks.take_while(|tick| *tick <= top * 1.0001) {
            let (at, right) = (y(tick), WIDTH - RIGHT);
            add(&mut svg, format!(r#"<path class="grid" d="M{LEFT} {at:.1}H{right}"/>"#));
            let text = (LEFT - 6.0, at + 4.0);
            add(&mut svg, label(text, "end", &short(tick)));
        }
        for (at, name) in &self.ticks {
            // Labels at the edges stay inside.
            let anchor = match x(*at) {
                at if at > WIDTH - RIGHT - 8.0 => "end",
                _ => "middle",
            };
            add(&mut svg, label((x(*at), HEIGHT - BOTTOM + 16.0), anchor, name));
        }
        add(&mut svg, label((0.0, HEIGHT - 6.0), "start", self.unit));
        add(&mut svg, label((WIDTH - RIGHT, HEIGHT - 6.0), "end", self.across));
        for line in &self.lines {
            add(&mut svg, drawn(line, &x, &y));
        }
        svg.push_str("</svg>");
        svg
    }
}

/// Returns a line with its dots.
fn drawn(line: &PlotLine, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for (index, point) in line.points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        add(&mut path, format!("{command}{:.1} {:.1}", x(point.0), y(point.1)));
    }
    // A line of one point that stands for all positions goes from edge to edge.
    if let [(_, height)] = line.points.as_slice()
        && line.is_dashed
    {
        path = format!("M{LEFT} {at:.1}H{right}", at = y(*height), right = WIDTH - RIGHT);
    }
    let (colour, dashed) = (line.colour, if line.is_dashed { " dashed" } else { "" });
    let mut svg = format!(r#"<path class="line c{colour}{dashed}" d="{path}"/>"#);
    for (across, up) in line.points.iter().filter(|_| line.has_dots) {
        let title = format!("{}: {}", line.label, short(*up));
        add(
            &mut svg,
            format!(
                r#"<circle class="dot c{colour}" cx="{:.1}" cy="{:.1}" r="4"><title>{}</title></circle>"#,
                x(*across),
                y(*up),
                escaped(&title)
            ),
        );
    }
    svg
}

/// A bar of several parts that follow one another.
#[derive(Clone, Debug)]
pub struct StackedBar {
    /// Its name.
    pub label: String,
    /// The lengths of its parts.
    pub parts: Vec<f64>,
}

/// Returns bars over one another, each with its name and its lengths above it.
pub fn stacked_bars(text: &str, unit: &str, parts: &[&str], bars: &[StackedBar]) -> String {
    const ROW: f64 = 40.0;
    let sum = |bar: &StackedBar| bar.parts.iter().sum::<f64>();
    let most = bars.iter().map(sum).fold(0.0, f64::max).max(1e-3);
    let mut svg = open(text, ROW * bars.len() as f64 + 4.0);
    for (row, bar) in bars.iter().enumerate() {
        let top = ROW * row as f64;
        add(&mut svg, label((0.0, top + 14.0), "start", &bar.label));
        let total = format!("{} {unit}", short(sum(bar)));
        add(&mut svg, label((WIDTH, top + 14.0), "end", &total));
        let mut left = 0.0;
        for ((colour, part), name) in bar.parts.iter().enumerate().zip(parts) {
            let width = part / most * WIDTH;
            add(
                &mut svg,
                format!(
                    r#"<rect class="part p{colour}" x="{left:.1}" y="{:.1}" width="{width:.1}" height="14"><title>{name}: {} {unit}</title></rect>"#,
                    top + 20.0,
                    short(*part)
                ),
            );
            left += width;
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Returns the beginning of a drawing, with its description for those who cannot see it.
fn open(text: &str, height: f64) -> String {
    let text = escaped(text);
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text}">"#)
}

/// Returns a text at a place. `anchor` is the end of it that stands there.
fn label((x, y): (f64, f64), anchor: &str, text: &str) -> String {
    let text = escaped(text);
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)
}

/// Appends to a drawing.
fn add(text: &mut String, more: impl AsRef<str>) {
    text.write_str(more.as_ref()).expect("a text takes more text");
}

/// Returns the distance of ticks: 1, 2 or 5 times a power of ten.
fn tick_step(most: f64) -> f64 {
    let rough = most / TICKS_MAX;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power)
}

/// Returns a number with two or three digits that count.
pub fn short(number: f64) -> String {
    let digits = match number.abs() {
        at_least if at_least >= 99.95 || at_least == at_least.round() => 0,
        at_least if at_least >= 9.995 => 1,
        at_least if at_least >= 0.1 => 2,
        _ => 3,
    };
    format!("{number:.digits$}")
}

/// Returns a text as it stands in HTML.
pub fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        for (most, step) in [(60.0, 10.0), (61.0, 20.0), (7.3, 2.0), (0.9, 0.2), (1200.0, 200.0)] {
            assert!((tick_step(most) - step).abs() < 1e-9, "{most}: {}", tick_step(most));
        }
        assert_eq!([0.0, 20.0, 0.25, 12.34, 123.4].map(short), ["0", "20", "0.25", "12.3", "123"]);
    }

    #[test]
    fn plot_has_all_points_inside() {
        let line = PlotLine {
            label: "a <b>".to_owned(),
            colour: 0,
            is_dashed: false,
            has_dots: true,
            points: vec![(0.0, 10.0), (1.0, 57.0)],
        };
        let bound = PlotLine { is_dashed: true, points: vec![(0.0, 60.0)], ..line.clone() };
        let ticks = vec![(0.0, "1".to_owned()), (1.0, "2".to_owned())];
        let plot = LinePlot {
            label: "a plot".to_owned(),
            unit: "M words/s",
            across: "workers",
            ticks,
            lines: vec![line, bound],
        };
        let svg = plot.svg();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a &lt;b&gt;: 57") && svg.contains(" dashed\" d=\"M40 "), "{svg}");
        for part in svg.split("cy=\"").skip(1) {
            let y: f64 = part.split('"').next().and_then(|y| y.parse().ok()).expect("a number");
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{y}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_times() {
        let bar = |parts: [f64; 2]| StackedBar { label: "-w 1".to_owned(), parts: parts.to_vec() };
        let svg =
            stacked_bars("stages", "ms", &["count", "write"], &[bar([3.0, 1.0]), bar([1.0, 1.0])]);
        let widths = ["270.0", "90.0", "90.0", "90.0"].map(|width| format!("width=\"{width}\""));
        let found: Vec<&str> = svg
            .split("y=\"")
            .filter_map(|part| part.split(' ').nth(1))
            .filter(|part| part.starts_with("width"))
            .collect();
        assert_eq!(found, widths);
    }
}
