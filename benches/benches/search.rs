//! Building an index over 2,000 SIFT descriptors, and searching it for the 10 nearest at several widths.
#![allow(missing_docs)] // criterion's macros make public items

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kriya_benches::{data, index};
use kriya_datasets::vectors;
use vecindex::{F32, HnswParams, Metric, SearchCursor};

fn search(c: &mut Criterion) {
    let base = vectors(&data("tiny/sift128/base.u8bin")).expect("checked-in data");
    let queries = vectors(&data("tiny/sift128/query.u8bin")).expect("checked-in data");
    let built = index::<F32>(&base, Metric::L2, HnswParams::default()).expect("an index");

    let mut group = c.benchmark_group("2000 x 128");
    for ef in [10, 40, 100] {
        let mut cursor = SearchCursor::default();
        let mut next = 0;
        group.bench_function(format!("10 nearest, ef {ef}"), |bench| {
            bench.iter(|| {
                next = (next + 1) % queries.len();
                cursor.start(&built, queries.row(next), ef).expect("a query of the right dimension");
                (0..10).filter_map(|_| cursor.next(&built)).map(|found| u64::from(found.id)).sum::<u64>()
            });
        });
    }
    group.sample_size(10);
    group.bench_function("build", |bench| {
        bench.iter_batched(
            || (),
            |()| index::<F32>(&base, Metric::L2, HnswParams::default()).expect("an index"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
