//! Building an index over 2,000 SIFT descriptors in every encoding, and searching it for the 10 nearest at several widths: what
//! is found in others than f32 is compared once more in f32.
#![allow(missing_docs)] // criterion's macros make public items

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use kriya_benches::{data, index, rows};
use kriya_datasets::{Matrix, vectors};
use vecindex::{Bf16, Encoding, F16, F32, HnswParams, I8, Metric, Rerank, SearchCursor};

const K: usize = 10;

fn encoding<E: Encoding>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    base: &Matrix<f32>,
    queries: &Matrix<f32>,
) {
    let built = index::<E>(base, Metric::L2, HnswParams::default()).expect("an index");
    let exact = (size_of::<E::Element>() < 4).then(|| rows::<F32>(base, Metric::L2).expect("rows"));
    for ef in [20, 40, 100] {
        let mut cursor = SearchCursor::default();
        let mut next = 0;
        group.bench_function(format!("{name}/{K} nearest, ef {ef}"), |bench| {
            bench.iter(|| {
                next = (next + 1) % queries.len();
                let query = queries.row(next);
                let wanted = if exact.is_some() { 2 * K } else { K };
                let mut found = built.search(query, wanted, ef, &mut cursor).expect("a query of the right dimension");
                if let Some(exact) = &exact {
                    exact.rerank(query, &mut found).expect("rows that there are");
                }
                found.truncate(K);
                found
            });
        });
    }
    group.bench_function(format!("{name}/build"), |bench| {
        bench.iter_batched(
            || (),
            |()| index::<E>(base, Metric::L2, HnswParams::default()).expect("an index"),
            BatchSize::PerIteration,
        );
    });
}

fn search(c: &mut Criterion) {
    let base = vectors(&data("tiny/sift128/base.u8bin")).expect("checked-in data");
    let queries = vectors(&data("tiny/sift128/query.u8bin")).expect("checked-in data");
    let mut group = c.benchmark_group("2000 x 128");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    encoding::<F32>(&mut group, "f32", &base, &queries);
    encoding::<F16>(&mut group, "f16", &base, &queries);
    encoding::<Bf16>(&mut group, "bf16", &base, &queries);
    encoding::<I8>(&mut group, "i8", &base, &queries);
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
