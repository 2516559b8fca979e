//! The measurement as tables to read: medians over the rounds, and each subject's ratio to the one it is compared with.

use super::point::Point;
use super::subject::{KRIYADB_ON_HEAP, PGVECTOR, Subject};

/// The recall at which searches are compared.
pub const RECALL: f64 = 0.99;

/// Prints the tables of one set.
pub fn print(points: &[Point]) {
    copies(points);
    for ef_construction in distinct(points, "ef_construction") {
        let of_index: Vec<&Point> =
            points.iter().filter(|p| p.figure("ef_construction") == Some(ef_construction)).collect();
        println!("\n  indexes with ef_construction = {ef_construction}; x: times pgvector's");
        builds(&of_index);
        inserts(&of_index);
        searches(&of_index);
    }
}

fn copies(points: &[Point]) {
    println!("\n  COPY, rows/s (x: times heap with the same type)");
    for workload in ["copy", "copy_primary_key"] {
        let of: Vec<&Point> = points.iter().filter(|p| p.workload == workload).collect();
        let heap = figure(&of, KRIYADB_ON_HEAP, "rows_per_s");
        for subject in subjects(&of) {
            let rows = figure(&of, subject, "rows_per_s");
            println!("    {workload:<18} {:<20} {:>9} {}", name(subject), shown(rows, 0), ratio(rows, heap));
        }
    }
}

fn builds(points: &[&Point]) {
    let of: Vec<&Point> = points.iter().copied().filter(|p| p.workload == "build").collect();
    let peer = figure(&of, PGVECTOR, "build_s");
    for subject in subjects(&of) {
        let seconds = figure(&of, subject, "build_s");
        println!(
            "    {:<24} {:<20} {:>9} s {}",
            "CREATE INDEX",
            name(subject),
            shown(seconds, 1),
            ratio(seconds, peer)
        );
    }
}

fn inserts(points: &[&Point]) {
    for workload in ["insert", "insert_async_commit", "insert_one_transaction"] {
        let of: Vec<&Point> = points.iter().copied().filter(|p| p.workload == workload).collect();
        let peer = figure(&of, PGVECTOR, "rows_per_s");
        for subject in subjects(&of) {
            let rows = figure(&of, subject, "rows_per_s");
            println!(
                "    {workload:<24} {:<20} {:>9} rows/s {}  p50 {} us, p99 {} us; until linked {} rows/s",
                name(subject),
                shown(rows, 0),
                ratio(rows, peer),
                shown(figure(&of, subject, "p50_us"), 0),
                shown(figure(&of, subject, "p99_us"), 0),
                shown(figure(&of, subject, "rows_per_s_linked"), 0),
            );
        }
    }
}

fn searches(points: &[&Point]) {
    for (workload, title) in [("knn", "one client"), ("knn_2_clients", "two clients")] {
        let of: Vec<&Point> = points.iter().copied().filter(|p| p.workload == workload).collect();
        println!("    searches, {title}:    ef   recall      QPS   p50 us   p99 us");
        for subject in subjects(&of) {
            for (ef, at) in curve(&of, subject) {
                println!(
                    "      {:<20} {ef:>6} {:>8.4} {:>8.0} {:>8.0} {:>8.0}",
                    name(subject),
                    at[0],
                    at[1],
                    at[2],
                    at[3]
                );
            }
        }
        let at = |subject| qps_at(&of, subject, RECALL);
        for subject in subjects(&of) {
            let qps = at(subject);
            println!(
                "      {:<20} QPS at recall {RECALL}: {} {}",
                name(subject),
                shown(qps, 0),
                ratio(qps, at(PGVECTOR))
            );
        }
    }
}

/// Queries per second at a recall: between the two widths around it, linear in the logarithm. `None` if no width reaches
/// it; the first width's figure where that does already.
pub fn qps_at(points: &[&Point], subject: Subject, recall: f64) -> Option<f64> {
    let curve = curve(points, subject);
    let at = curve.iter().position(|(_, at)| at[0] >= recall)?;
    let (above, below) = (curve[at].1, at.checked_sub(1).map(|before| curve[before].1));
    let Some(below) = below.filter(|below| below[0] < above[0]) else { return Some(above[1]) };
    let part = (recall - below[0]) / (above[0] - below[0]);
    Some((below[1].ln() + part * (above[1].ln() - below[1].ln())).exp())
}

/// Per width: medians of recall, queries per second, p50 and p99 in microseconds.
fn curve(points: &[&Point], subject: Subject) -> Vec<(f64, [f64; 4])> {
    let of: Vec<&Point> = points.iter().copied().filter(|p| p.subject == subject).collect();
    let widths = distinct(of.iter().copied(), "ef").into_iter();
    let at = |ef: f64| {
        let of: Vec<&Point> = of.iter().copied().filter(|p| p.figure("ef") == Some(ef)).collect();
        ["recall", "qps", "p50_us", "p99_us"].map(|what| figure(&of, subject, what).unwrap_or(f64::NAN))
    };
    widths.map(|ef| (ef, at(ef))).collect()
}

/// The median of a figure of a subject.
fn figure(points: &[&Point], subject: Subject, what: &str) -> Option<f64> {
    let mut all: Vec<f64> = points.iter().filter(|p| p.subject == subject).filter_map(|p| p.figure(what)).collect();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() {
        0 => None,
        n if n % 2 == 1 => Some(all[middle]),
        _ => Some((all[middle - 1] + all[middle]) / 2.0),
    }
}

fn distinct<'a>(points: impl IntoIterator<Item = &'a Point>, what: &str) -> Vec<f64> {
    let mut all: Vec<f64> = points.into_iter().filter_map(|p| p.figure(what)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

fn subjects(points: &[&Point]) -> Vec<Subject> {
    let mut all = Vec::new();
    for point in points {
        if !all.contains(&point.subject) {
            all.push(point.subject);
        }
    }
    all.sort_by_key(|subject| (subject.library, subject.table_am));
    all
}

fn name(subject: Subject) -> String {
    format!("{} on {}", subject.library, subject.table_am)
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

fn ratio(figure: Option<f64>, to: Option<f64>) -> String {
    figure.zip(to).map_or_else(|| "      ".to_owned(), |(figure, to)| format!("{:>5.2}x", figure / to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kriya_datasets::Matrix;

    use crate::bench::data::Data;

    fn search(subject: Subject, ef: u32, recall: f64, qps: f64, round: usize) -> Point {
        let base = Matrix::new(vec![0.0], 1).unwrap();
        let truth = Matrix::new(vec![0], 1).unwrap();
        let data = Data { name: "", metric: "l2", operator: "<->", base, queries: Vec::new(), truth };
        Point::new(subject, "knn", &data, round).with("ef", ef).with("recall", recall).with("qps", qps)
    }

    #[test]
    fn speed_at_a_recall_lies_between_the_two_widths_around_it() {
        let points = [search(PGVECTOR, 10, 0.98, 4000.0, 0), search(PGVECTOR, 20, 1.0, 1000.0, 0)];
        let all: Vec<&Point> = points.iter().collect();
        // Half way in recall, half way in the logarithm.
        assert!((qps_at(&all, PGVECTOR, 0.99).unwrap() - 2000.0).abs() < 1e-6);
        assert_eq!(qps_at(&all, PGVECTOR, 0.5), Some(4000.0));
        assert_eq!(qps_at(&all, KRIYADB_ON_HEAP, 0.99), None);
    }

    #[test]
    fn rounds_are_summed_up_by_their_median() {
        let points: Vec<Point> =
            [3.0, 100.0, 1.0].iter().zip(0..).map(|(qps, round)| search(PGVECTOR, 10, 1.0, *qps, round)).collect();
        let all: Vec<&Point> = points.iter().collect();
        assert_eq!(figure(&all, PGVECTOR, "qps"), Some(3.0));
        assert_eq!(figure(&all[..2], PGVECTOR, "qps"), Some(51.5));
    }
}
