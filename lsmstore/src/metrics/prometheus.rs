//! Figures as text, in the exposition format of Prometheus (0.0.4). Text only: serving it is somebody else's trade.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::{Counter, Gauge, Histogram, Metric, Recorder};

#[derive(Debug)]
enum Value {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

/// All figures of a name.
#[derive(Debug)]
struct Family {
    help: &'static str,
    /// By their labels, as they are printed. A store that is opened again takes its predecessor's place.
    values: BTreeMap<String, Value>,
}

/// A recorder that renders text, of any number of stores.
#[derive(Debug, Default)]
pub struct Prometheus {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

impl Prometheus {
    /// One that knows of no store yet.
    pub fn new() -> Prometheus {
        Prometheus::default()
    }

    fn families(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, metric: &Metric<'_>, value: Value) {
        let labels: Vec<String> =
            metric.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let mut families = self.families();
        let family =
            families.entry(metric.name).or_insert_with(|| Family { help: metric.help, values: BTreeMap::new() });
        family.values.insert(labels.join(","), value);
    }

    /// The figures of this moment: what a scrape of `/metrics` is to be answered with, as `text/plain; version=0.0.4`.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in self.families().iter() {
            let kind = match family.values.values().next() {
                Some(Value::Counter(_)) => "counter",
                Some(Value::Gauge(_)) => "gauge",
                Some(Value::Histogram(_)) => "histogram",
                None => continue,
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, value) in &family.values {
                match value {
                    Value::Counter(counter) => drop(writeln!(out, "{name}{{{labels}}} {}", counter.get())),
                    Value::Gauge(gauge) => drop(writeln!(out, "{name}{{{labels}}} {}", gauge.get())),
                    Value::Histogram(histogram) => put_histogram(&mut out, name, labels, histogram),
                }
            }
        }
        out
    }
}

fn put_histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let more = if labels.is_empty() { "" } else { "," };
    let mut most = 0;
    for (bound, count) in histogram.buckets() {
        let _ = writeln!(out, "{name}_bucket{{{labels}{more}le=\"{}\"}} {count}", bound.as_secs_f64());
        most = count;
    }
    // Something may have been counted between the buckets and this; what is rendered never contradicts itself.
    let count = histogram.count().max(most);
    let _ = writeln!(out, "{name}_bucket{{{labels}{more}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", histogram.sum().as_secs_f64());
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Recorder for Prometheus {
    fn counter(&self, metric: &Metric<'_>, value: Arc<Counter>) {
        self.keep(metric, Value::Counter(value));
    }

    fn gauge(&self, metric: &Metric<'_>, value: Arc<Gauge>) {
        self.keep(metric, Value::Gauge(value));
    }

    fn histogram(&self, metric: &Metric<'_>, value: Arc<Histogram>) {
        self.keep(metric, Value::Histogram(value));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn metric<'a>(name: &'static str, labels: &'a [(&'static str, &'a str)]) -> Metric<'a> {
        Metric { name, help: "Some help.", labels }
    }

    #[test]
    fn text_is_that_of_the_exposition_format() {
        let prometheus = Prometheus::new();
        let counter = Arc::new(Counter::default());
        counter.add(7);
        prometheus.counter(&metric("b_total", &[("prefix", "a\"b\\c\nd"), ("class", "put")]), Arc::clone(&counter));
        prometheus.gauge(&metric("a_bytes", &[]), Arc::new(Gauge::new(|| 1.5)));
        let expected = "# HELP a_bytes Some help.\n# TYPE a_bytes gauge\na_bytes{} 1.5\n\
                        # HELP b_total Some help.\n# TYPE b_total counter\n\
                        b_total{prefix=\"a\\\"b\\\\c\\nd\",class=\"put\"} 7\n";
        assert_eq!(prometheus.render(), expected);
        counter.add(1);
        assert!(prometheus.render().contains("} 8\n"), "figures are those of the moment");
    }

    #[test]
    fn buckets_of_a_histogram_add_up() {
        let prometheus = Prometheus::new();
        let histogram = Arc::new(Histogram::default());
        histogram.add(Duration::from_millis(3));
        histogram.add(Duration::from_secs(1000));
        prometheus.histogram(&metric("t_seconds", &[("k", "v")]), histogram);
        let text = prometheus.render();
        for line in [
            "# TYPE t_seconds histogram",
            "t_seconds_bucket{k=\"v\",le=\"0.0025\"} 0",
            "t_seconds_bucket{k=\"v\",le=\"0.005\"} 1",
            "t_seconds_bucket{k=\"v\",le=\"+Inf\"} 2",
            "t_seconds_sum{k=\"v\"} 1000.003",
            "t_seconds_count{k=\"v\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_store_that_is_opened_again_takes_the_place_of_the_one_before() {
        let prometheus = Prometheus::new();
        let (first, second) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        first.add(9);
        prometheus.counter(&metric("n_total", &[("prefix", "x")]), first);
        prometheus.counter(&metric("n_total", &[("prefix", "x")]), second);
        assert!(prometheus.render().ends_with("n_total{prefix=\"x\"} 0\n"));
    }
}
