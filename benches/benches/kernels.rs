//! One distance between two rows, and of one query to some rows, in every encoding, for each set of kernels that this machine
//! can run.
#![allow(missing_docs)] // criterion's macros make public items

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use kriya_benches::{data, rows};
use kriya_datasets::{Matrix, vectors};
use vecindex::kernel::{Element, Kernels};
use vecindex::{Bf16, Encoding, F16, F32, I8, Metric, VectorStorage};

fn texts() -> Matrix<f32> {
    vectors(&data("tiny/minilm384/base.f16bin")).expect("checked-in data")
}

/// The three distances of two slices.
fn slices<T: Element>(group: &mut BenchmarkGroup<'_, WallTime>, kernels: &Kernels, name: &str, rows: [Vec<T>; 2]) {
    let [a, b] = rows;
    let set = kernels.name();
    group.bench_function(format!("{set}/{name}/l2_squared"), |bench| {
        bench.iter(|| kernels.l2_squared(black_box(&a), black_box(&b)));
    });
    group.bench_function(format!("{set}/{name}/dot"), |bench| {
        bench.iter(|| kernels.dot(black_box(&a), black_box(&b)));
    });
    group.bench_function(format!("{set}/{name}/cosine_distance"), |bench| {
        bench.iter(|| kernels.cosine_distance(black_box(&a), black_box(&b)));
    });
}

fn kernels(c: &mut Criterion) {
    let texts = texts();
    let both = |to: fn(f32) -> f32| [0, 1].map(|row| texts.row(row).iter().map(|x| to(*x)).collect::<Vec<f32>>());
    let mut group = c.benchmark_group("two slices of 384");
    group.throughput(Throughput::Elements(texts.dim() as u64));
    for kernels in vecindex::kernel::available() {
        slices(&mut group, kernels, "f32", both(|x| x));
        slices(&mut group, kernels, "f16", both(|x| x).map(|row| row.into_iter().map(f16::from_f32).collect()));
        slices(&mut group, kernels, "bf16", both(|x| x).map(|row| row.into_iter().map(bf16::from_f32).collect()));
        let codes = both(|x| (x * 500.0).clamp(-127.0, 127.0));
        slices(&mut group, kernels, "i8", codes.map(|row| row.into_iter().map(|x| x as i8).collect()));
    }
    group.finish();
}

/// What an expanded node costs: 32 rows that are not in the first cache, by the set that an index would take.
fn neighbours<E: Encoding>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, texts: &Matrix<f32>) {
    for metric in [Metric::L2, Metric::InnerProduct] {
        let stored = rows::<E>(texts, metric).expect("rows");
        let mut query = E::Query::default();
        stored.prepare(texts.row(0), &mut query).expect("a query");
        let (mut from, mut out) = (0_u32, [0.0; 32]);
        group.bench_function(format!("{name}/{metric:?}"), |bench| {
            bench.iter(|| {
                from = from.wrapping_mul(5).wrapping_add(7) % stored.len();
                let ids: [u32; 32] = std::array::from_fn(|i| (from + 61 * i as u32) % stored.len());
                stored.distances(&query, &ids, &mut out);
                black_box(out[31])
            });
        });
    }
}

fn expansion(c: &mut Criterion) {
    let texts = texts();
    let mut group = c.benchmark_group("a query of 384 and 32 rows");
    group.throughput(Throughput::Elements(32));
    neighbours::<F32>(&mut group, "f32", &texts);
    neighbours::<F16>(&mut group, "f16", &texts);
    neighbours::<Bf16>(&mut group, "bf16", &texts);
    neighbours::<I8>(&mut group, "i8", &texts);
    group.finish();
}

/// Seventy measurements of half a second each.
fn briefly() -> Criterion {
    let (warm, measured) = (Duration::from_millis(100), Duration::from_millis(400));
    Criterion::default().sample_size(20).warm_up_time(warm).measurement_time(measured)
}

criterion_group!(name = benches; config = briefly(); targets = kernels, expansion);
criterion_main!(benches);
