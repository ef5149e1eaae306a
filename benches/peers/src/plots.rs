//! The plots of docs/performance: SVG with text as text, no font is needed to draw them.

use crate::Result;
use crate::results::{Cell, Group, Metric};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: u32 = 860;
/// Of one bar with its gap.
const BAR: u32 = 24;
const LABELS: i32 = 310;
/// Connections of the cells that are about sizes.
const SIZES_CONNECTIONS: u32 = 8;
/// Where the plot over sizes begins, bytes.
const LEAST_SIZE: f64 = 65_536.0;
/// Of ours.
const OURS: RGBColor = RGBColor(31, 119, 180);
/// Of others' lines, in their order.
const OTHERS: [RGBColor; 4] =
    [RGBColor(120, 120, 120), RGBColor(214, 39, 40), RGBColor(255, 127, 14), RGBColor(44, 160, 44)];
const FONT: &str = "sans-serif";

/// A subject's name, whether it is ours, and its points.
type Line = (String, bool, Vec<(f64, f64)>);

/// One bar.
struct Bar {
    label: String,
    value: f64,
    shown: String,
    ours: bool,
}

/// plotters makes text smaller by this, for reasons of bitmaps.
const SHRUNK: f64 = 1.24;

fn font(size: i32) -> (&'static str, f64) {
    (FONT, f64::from(size) * SHRUNK)
}

fn text(size: i32, pos: HPos) -> TextStyle<'static> {
    TextStyle::from(font(size).into_font()).color(&BLACK).pos(Pos::new(pos, VPos::Center))
}

/// Horizontal bars, a block for each cell; lower is better.
fn bars(file: &Path, title: &str, blocks: &[(String, Vec<Bar>)]) -> Result<()> {
    let count: usize = blocks.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = 50 + count as u32 * BAR;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(title, &text(18, HPos::Left), (12, 22))?;
    let most = blocks.iter().flat_map(|(_, bars)| bars).map(|bar| bar.value).fold(0.0, f64::max);
    let room = f64::from(WIDTH as i32 - LABELS - 90);
    let mut y = 50;
    for (name, bars) in blocks {
        root.draw_text(name, &text(15, HPos::Left), (12, y + 10))?;
        y += BAR as i32;
        for bar in bars {
            let middle = y + BAR as i32 / 2;
            root.draw_text(&bar.label, &text(13, HPos::Right), (LABELS - 8, middle))?;
            let width = (bar.value / most.max(f64::MIN_POSITIVE) * room) as i32;
            let color = if bar.ours { OURS } else { RGBColor(170, 170, 170) };
            let corners = [(LABELS, y + 3), (LABELS + width.max(1), y + BAR as i32 - 3)];
            root.draw(&Rectangle::new(corners, color.filled()))?;
            root.draw_text(&bar.shown, &text(13, HPos::Left), (LABELS + width + 6, middle))?;
            y += BAR as i32;
        }
        y += BAR as i32;
    }
    root.present()?;
    Ok(())
}

fn block(cell: &Cell, metric: Metric) -> (String, Vec<Bar>) {
    let bar = |row: &crate::results::Row| {
        let value = row.spread(metric)?.median;
        let label = row.label.replace(['*', '`'], "");
        let shown = metric.show(value);
        // What has no process costs nothing: no bar.
        (value > 0.0).then(|| Bar { label, value, shown, ours: row.subject.starts_with("gw") })
    };
    (cell.name.clone(), cell.rows.iter().filter_map(bar).collect())
}

/// A line for each subject, over cells whose names begin with a number; both axes logarithmic.
fn lines(file: &Path, title: &str, metric: Metric, points: &[(f64, &Cell)]) -> Result<()> {
    let mut series: Vec<Line> = Vec::new();
    for (x, cell) in points {
        for row in &cell.rows {
            let Some(spread) = row.spread(metric).filter(|spread| spread.median > 0.0) else {
                continue;
            };
            let label = row.label.replace(['*', '`'], "");
            let point = (*x, spread.median);
            match series.iter_mut().find(|(name, ..)| *name == label) {
                Some((.., line)) => line.push(point),
                None => series.push((label, row.subject.starts_with("gw"), vec![point])),
            }
        }
    }
    let all = || series.iter().flat_map(|(.., line)| line);
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let (x0, x1) = (least(&mut all().map(|p| p.0)), most(&mut all().map(|p| p.0)));
    let (y0, y1) = (least(&mut all().map(|p| p.1)), most(&mut all().map(|p| p.1)));
    if !x0.is_finite() || x1 <= x0 {
        return Ok(());
    }
    let root = SVGBackend::new(file, (WIDTH, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, font(18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d((x0..x1 * 1.2).log_scale(), (y0 / 2.0..y1 * 5.0).log_scale())?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .y_desc(metric.title())
        .x_label_formatter(&|x| crate::groups::short(*x))
        .label_style(font(12))
        .draw()?;
    for (index, (label, ours, line)) in series.into_iter().enumerate() {
        let other = OTHERS.get(index % OTHERS.len()).copied().unwrap_or(BLACK);
        let color = if ours { OURS } else { other };
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(if ours { 3 } else { 2 })))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(font(12))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Draws what the group has plots of.
pub(crate) fn draw(group: &Group, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let blocks = |metric| group.cells.iter().map(|cell| block(cell, metric)).collect::<Vec<_>>();
    let file = |name: &str| folder.join(format!("{name}.svg"));
    match group.name.as_str() {
        name @ ("large" | "medium" | "plans") => {
            let title = "CPU seconds of the proxy per GB (less is better)";
            bars(&file(name), title, &blocks(Metric::CpuPerGb))
        }
        "small" => {
            let cells = group.cells.iter().take(1);
            let blocks: Vec<_> = cells.map(|cell| block(cell, Metric::CpuPerRequest)).collect();
            bars(&file("small"), "CPU µs of the proxy per 4 KiB PUT (less is better)", &blocks)
        }
        "scale" => {
            let named = |ending: &str, start: &str| -> Vec<(f64, &Cell)> {
                let fits =
                    |cell: &&Cell| cell.name.ends_with(ending) && cell.name.starts_with(start);
                let x = |cell: &Cell| crate::groups::axis(&cell.name, !ending.is_empty());
                group.cells.iter().filter(fits).filter_map(|cell| Some((x(cell)?, cell))).collect()
            };
            let title = "CPU µs per 4 KiB PUT over connections";
            let mut points = named("", "4 KiB × ");
            points.retain(|(connections, _)| *connections != f64::from(SIZES_CONNECTIONS));
            lines(&file("connections"), title, Metric::CpuPerRequest, &points)?;
            let title = "CPU s/GB over the size of a PUT, 8 connections";
            // Below, it is the request that costs.
            let mut points = named(" × 8", "");
            points.retain(|(size, _)| *size >= LEAST_SIZE);
            lines(&file("sizes"), title, Metric::CpuPerGb, &points)
        }
        _ => Ok(()),
    }
}
