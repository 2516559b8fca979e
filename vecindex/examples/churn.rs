//! Recall and build time after every tenth row was deleted and as many new ones came, and after a merge, beside fresh builds.
//!
//! ```text
//! cargo run --release -p vecindex --example churn -- BASE QUERIES [l2|cosine|ip] [f32|f16|bf16|i8]
//! ```

mod vectors;

use std::error::Error;
use std::time::Instant;

use vecindex::{Bf16, Encoding, F16, F32, Hit, I8, Index, Metric, Neighbour, Search, recall};
use vectors::{read, thread_seconds};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, rest @ ..] = &args[..] else {
        return Err("usage: churn BASE QUERIES [metric] [encoding]".into());
    };
    let metric = match rest.first().map_or("l2", String::as_str) {
        "l2" => Metric::L2,
        "cosine" => Metric::Cosine,
        "ip" => Metric::InnerProduct,
        other => return Err(format!("metric \"{other}\", expected l2, cosine or ip").into()),
    };
    let (base, mut queries) = (read(base)?, read(queries)?);
    queries.truncate(500);
    match rest.get(1).map_or("f32", String::as_str) {
        "f32" => run::<F32>(metric, &base, &queries),
        "f16" => run::<F16>(metric, &base, &queries),
        "bf16" => run::<Bf16>(metric, &base, &queries),
        "i8" => run::<I8>(metric, &base, &queries),
        other => Err(format!("encoding \"{other}\", expected f32, f16, bf16 or i8").into()),
    }
}

fn run<E: Encoding>(metric: Metric, base: &[Vec<f32>], queries: &[Vec<f32>]) -> Result<(), Box<dyn Error>> {
    let build = |keys: &mut dyn Iterator<Item = usize>| -> Result<Index<E>, Box<dyn Error>> {
        let mut index = Index::builder(base[0].len(), metric).capacity(base.len() as u32).build()?;
        index.extend(keys.map(|key| (key as u64, &base[key])))?;
        Ok(index)
    };
    let timed = |what: &str, start: Instant| println!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    let kept = base.len() / 11 * 10;
    let start = Instant::now();
    let mut index = build(&mut (0..kept))?;
    timed(&format!("{kept} rows built"), start);
    (0..kept as u64).step_by(10).for_each(|key| assert!(index.remove(key)));
    show("a tenth removed", &index, queries)?;
    let start = Instant::now();
    index.consolidate()?;
    timed("consolidated", start);
    show("consolidated", &index, queries)?;
    let start = Instant::now();
    index.extend((kept..base.len()).map(|key| (key as u64, &base[key])))?;
    timed(&format!("{} rows added", base.len() - kept), start);
    show("a tenth added", &index, queries)?;
    show("the same afresh", &build(&mut (0..base.len()).filter(|key| *key >= kept || key % 10 != 0))?, queries)?;
    let mut index = build(&mut (0..base.len() * 3 / 4))?;
    let other = build(&mut (base.len() * 3 / 4..base.len()))?;
    let start = Instant::now();
    index.merge(other)?;
    timed("a quarter merged", start);
    show("a quarter merged", &index, queries)?;
    index.optimize()?;
    show("optimized", &index, queries)?;
    show("the same afresh", &build(&mut (0..base.len()))?, queries)
}

fn show<E: Encoding>(what: &str, index: &Index<E>, queries: &[Vec<f32>]) -> Result<(), Box<dyn Error>> {
    let rows = |hits: &[Hit]| -> Vec<Neighbour> {
        hits.iter().map(|hit| Neighbour { id: hit.key as u32, distance: hit.distance }).collect()
    };
    let truth = queries.iter().map(|query| index.search_exactly(query, 10, &Search::new()));
    let truth = truth.collect::<Result<Vec<_>, _>>()?;
    print!("{what:>16}:");
    for ef in [10, 20, 40, 80] {
        let (start, how) = (thread_seconds(), Search::new().ef(ef));
        let mut context = Default::default();
        let found = queries.iter().map(|query| index.search_with(query, 10, &how, &mut context));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        let seconds = thread_seconds() - start;
        let share: f64 = found.iter().zip(&truth).map(|(found, truth)| recall(&rows(found), &rows(truth))).sum();
        print!("  ef {ef} {:.4} {:6.0}/s", share / queries.len() as f64, queries.len() as f64 / seconds);
    }
    println!();
    Ok(())
}
