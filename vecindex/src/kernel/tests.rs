//! The same suite for every instruction set, against f64; a set that this machine lacks is named and left out.

use proptest::prelude::*;

use super::{Kernels, LINE, available, choose};

#[derive(Clone)]
#[repr(align(64))]
struct Line([f32; LINE]);

fn padded(rows: &[Vec<f32>], stride: usize) -> Vec<Line> {
    let mut lines = vec![Line([0.0; LINE]); rows.len() * stride / LINE];
    for (r, row) in rows.iter().enumerate() {
        for (i, x) in row.iter().enumerate() {
            lines[r * stride / LINE + i / LINE].0[i % LINE] = *x;
        }
    }
    lines
}

fn dot64(a: &[f32], b: &[f32]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
    terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
}

fn l264(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}

/// Worst case of one accumulator over everything, doubled for the products' own rounding.
fn slack(size: f64, d: usize) -> f64 {
    size * (d as f64 + 8.0) * 2.0 * f64::from(f32::EPSILON) + 1e-30
}

fn pairs() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>)> {
    (0usize..260, 0usize..5).prop_flat_map(|(d, offset)| {
        let v = || proptest::collection::vec(-100.0f32..100.0, d + offset);
        (Just(offset), v(), v())
    })
}

fn slices_agree(k: &Kernels, offset: usize, a: &[f32], b: &[f32]) {
    let (a, b) = (&a[offset..], &b[offset..]);
    let (dot, size) = dot64(a, b);
    assert!((f64::from(k.dot(a, b)) - dot).abs() <= slack(size, a.len()), "dot of {} floats", a.len());
    let l2 = l264(a, b);
    assert!((f64::from(k.l2_squared(a, b)) - l2).abs() <= slack(l2, a.len()), "l2 of {} floats", a.len());
    let (aa, bb) = (dot64(a, a).0, dot64(b, b).0);
    let cosine = if aa == 0.0 || bb == 0.0 { 1.0 } else { 1.0 - dot / (aa * bb).sqrt() };
    assert!((f64::from(k.cosine_distance(a, b)) - cosine).abs() <= 1e-4, "cosine of {} floats", a.len());
}

fn rows_agree(k: &Kernels, d: usize, rows: &[Vec<f32>]) {
    let stride = d.next_multiple_of(LINE);
    let lines = padded(rows, stride);
    let base = lines.as_ptr().cast::<f32>();
    let ids: Vec<u32> = (0..rows.len() as u32).rev().collect();
    let mut out = vec![f32::NAN; ids.len()];
    // SAFETY: `lines` holds rows.len() aligned rows of `stride` floats, and the first serves as the query.
    unsafe { (k.rows_l2)(base, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let expected = l264(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(expected, d));
        // SAFETY: as above.
        let pair = unsafe { (k.pair_l2)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
    // SAFETY: as above.
    unsafe { (k.rows_dot)(base, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let (expected, size) = dot64(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(size, d));
        // SAFETY: as above.
        let pair = unsafe { (k.pair_dot)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
}

macro_rules! suite {
    ($($name:ident),*) => { $(mod $name {
        use super::*;

        fn kernels() -> Option<&'static Kernels> {
            let found = available().into_iter().find(|k| k.name() == stringify!($name));
            if found.is_none() {
                eprintln!("{} is not available on this machine: not tested", stringify!($name));
            }
            found
        }

        proptest! {
            #[test]
            fn slices_of_any_length_and_alignment_agree_with_f64((offset, a, b) in pairs()) {
                if let Some(k) = kernels() {
                    slices_agree(k, offset, &a, &b);
                }
            }

            #[test]
            fn batches_of_padded_rows_agree_with_f64(
                (d, rows) in (1usize..200, 1usize..40).prop_flat_map(|(d, n)| {
                    let row = proptest::collection::vec(-10.0f32..10.0, d);
                    (Just(d), proptest::collection::vec(row, n))
                })
            ) {
                if let Some(k) = kernels() {
                    rows_agree(k, d, &rows);
                }
            }
        }

        #[test]
        fn a_zero_vector_is_at_right_angles_to_everything() {
            if let Some(k) = kernels() {
                assert_eq!(k.cosine_distance(&[0.0; 19], &[1.0; 19]), 1.0);
                assert_eq!(k.cosine_distance(&[0.0; 19], &[0.0; 19]), 1.0);
                assert_eq!(k.cosine_distance(&[], &[]), 1.0);
            }
        }

        #[test]
        fn a_cosine_does_not_depend_on_length_even_at_the_ends_of_f32() {
            if let Some(k) = kernels() {
                for scale in [1e-38f32, 1e-30, 1e-18, 1.0, 1e18, 1e30, 3e38] {
                    let a: Vec<f32> = [1.0f32, 0.5, 0.25].iter().map(|x| x * scale).collect();
                    let d = k.cosine_distance(&a, &[1.0, 0.5, 0.25]);
                    assert!(d < 1e-5, "scale {scale:e}: {d}");
                }
            }
        }
    })* };
}

suite!(scalar, portable, avx2, avx512);

#[test]
fn a_set_that_is_not_there_is_an_error_that_names_those_that_are() {
    let error = choose(Some("mmx")).unwrap_err();
    assert!(error.to_string().contains("\"mmx\"") && error.to_string().contains("scalar"), "{error}");
    assert_eq!(choose(Some("portable")).unwrap().name(), "portable");
    assert_eq!(choose(None).unwrap().name(), available().last().unwrap().name());
}
