//! The same suite for every instruction set, against f64; a set that this machine lacks is named and left out.

use proptest::prelude::*;

use half::{bf16, f16};

use super::codes::AT_ONCE;
use super::{Element, FloatKernels, Kernels, available, choose};

const LINE_BYTES: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through pointers")] [u8; LINE_BYTES]);

/// Rows at a stride of whole lines, zeros behind each.
fn padded<T: Copy>(rows: &[Vec<T>], stride: usize) -> Vec<Line> {
    let mut lines = vec![Line([0; LINE_BYTES]); rows.len() * stride * size_of::<T>() / LINE_BYTES];
    let base = lines.as_mut_ptr().cast::<T>();
    for (r, row) in rows.iter().enumerate() {
        for (i, x) in row.iter().enumerate() {
            // SAFETY: i < row.len() <= stride, and there are rows.len() * stride elements.
            unsafe { base.add(r * stride + i).write(*x) };
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

fn rows_agree<T: Copy>(k: &FloatKernels<T>, d: usize, rows: &[Vec<f32>], to: fn(f32) -> T, from: fn(T) -> f32) {
    let stride = (d * size_of::<T>()).next_multiple_of(LINE_BYTES) / size_of::<T>();
    let stored: Vec<Vec<T>> = rows.iter().map(|row| row.iter().map(|x| to(*x)).collect()).collect();
    let rows: Vec<Vec<f32>> = stored.iter().map(|row| row.iter().map(|x| from(*x)).collect()).collect();
    let query = padded(&rows[..1], stride);
    let query = query.as_ptr().cast::<f32>();
    let lines = padded(&stored, stride);
    let base = lines.as_ptr().cast::<T>();
    let ids: Vec<u32> = (0..rows.len() as u32).rev().collect();
    let mut out = vec![f32::NAN; ids.len()];
    // SAFETY: `lines` holds rows.len() aligned rows of `stride` elements, `query` one of floats.
    unsafe { (k.rows_l2)(query, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let expected = l264(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(expected, d));
        // SAFETY: as above.
        let pair = unsafe { (k.pair_l2)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
    // SAFETY: as above.
    unsafe { (k.rows_dot)(query, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let (expected, size) = dot64(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(size, d));
        // SAFETY: as above.
        let pair = unsafe { (k.pair_dot)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
}

fn halves_agree(k: &Kernels, offset: usize, a: &[f32], b: &[f32]) {
    let (x, y): (Vec<f16>, Vec<f16>) = (
        a[offset..].iter().map(|x| f16::from_f32(*x)).collect(),
        b[offset..].iter().map(|x| f16::from_f32(*x)).collect(),
    );
    floats_agree(k, &x, &y, f16::to_f32);
    let (x, y): (Vec<bf16>, Vec<bf16>) = (
        a[offset..].iter().map(|x| bf16::from_f32(*x)).collect(),
        b[offset..].iter().map(|x| bf16::from_f32(*x)).collect(),
    );
    floats_agree(k, &x, &y, bf16::to_f32);
}

fn floats_agree<T: Element<Sum = f32>>(k: &Kernels, x: &[T], y: &[T], from: fn(T) -> f32) {
    let (a, b): (Vec<f32>, Vec<f32>) = (x.iter().map(|x| from(*x)).collect(), y.iter().map(|x| from(*x)).collect());
    let (dot, size) = dot64(&a, &b);
    assert!((f64::from(k.dot(x, y)) - dot).abs() <= slack(size, a.len()));
    let l2 = l264(&a, &b);
    assert!((f64::from(k.l2_squared(x, y)) - l2).abs() <= slack(l2, a.len()));
}

/// Exactly: integers have no excuse.
fn bytes_agree(k: &Kernels, a: &[i8], b: &[i8]) {
    let dot: i64 = a.iter().zip(b).map(|(x, y)| i64::from(*x) * i64::from(*y)).sum();
    let l2: i64 = a.iter().zip(b).map(|(x, y)| (i64::from(*x) - i64::from(*y)).pow(2)).sum();
    assert_eq!(k.dot(a, b), dot, "dot of {} bytes", a.len());
    assert_eq!(k.l2_squared(a, b), l2, "l2 of {} bytes", a.len());
}

fn code_rows_agree(k: &Kernels, rows: &[Vec<i8>]) {
    let d = rows[0].len();
    let stride = d.next_multiple_of(LINE_BYTES);
    let query = padded(&rows[..1], stride);
    let stored: Vec<Vec<u8>> = rows.iter().map(|row| row.iter().map(|x| *x as u8 ^ 0x80).collect()).collect();
    let lines = padded(&stored, stride);
    let base = lines.as_ptr().cast::<u8>();
    let ids: Vec<u32> = (0..rows.len() as u32).rev().collect();
    let mut out = vec![i32::MIN; ids.len()];
    // SAFETY: `lines` holds rows.len() rows of `stride` bytes, `query` one.
    unsafe { (k.codes.rows)(query.as_ptr().cast(), base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let terms =
            |a: &[i8]| -> i32 { stored[*id as usize].iter().zip(a).map(|(u, q)| i32::from(*u) * i32::from(*q)).sum() };
        assert_eq!(*got, terms(&rows[0]));
        // SAFETY: as above.
        let pair = unsafe { (k.codes.pair)(base.add(*id as usize * stride), base, stride) };
        assert_eq!(pair, terms(&rows[0]), "a pair and a batch disagree");
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
                    halves_agree(k, offset, &a, &b);
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
                    rows_agree(&k.f32, d, &rows, |x| x, |x| x);
                    rows_agree(&k.f16, d, &rows, f16::from_f32, f16::to_f32);
                    rows_agree(&k.bf16, d, &rows, bf16::from_f32, bf16::to_f32);
                }
            }

            #[test]
            fn sums_of_bytes_are_exact(
                (a, b) in (0usize..400).prop_flat_map(|d| {
                    let v = || proptest::collection::vec(any::<i8>(), d);
                    (v(), v())
                })
            ) {
                if let Some(k) = kernels() {
                    bytes_agree(k, &a, &b);
                }
            }

            #[test]
            fn batches_of_codes_are_exact(
                rows in (1usize..400, 1usize..20).prop_flat_map(|(d, n)| {
                    proptest::collection::vec(proptest::collection::vec(any::<i8>(), d), n)
                })
            ) {
                if let Some(k) = kernels() {
                    code_rows_agree(k, &rows);
                }
            }
        }

        #[test]
        fn the_largest_sums_of_bytes_do_not_overflow() {
            if let Some(k) = kernels() {
                for d in [AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 7] {
                    for (x, y) in [(-128, -128), (127, -128), (-128, 127), (127, 127)] {
                        bytes_agree(k, &vec![x; d], &vec![y; d]);
                    }
                }
                code_rows_agree(k, &[vec![-128; AT_ONCE], vec![127; AT_ONCE]]);
                code_rows_agree(k, &[vec![127; AT_ONCE], vec![127; AT_ONCE]]);
            }
        }

        #[test]
        fn every_half_precision_float_is_read_as_what_it_is() {
            if let Some(k) = kernels() {
                for bits in (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite()) {
                    let x = [f16::from_bits(bits); 16];
                    let one = [f16::ONE; 16].map(|one| if bits % 3 == 0 { -one } else { one });
                    let expected = f16::from_bits(bits).to_f32() * one[0].to_f32() * 16.0;
                    assert_eq!(k.dot(&x, &one), expected, "{bits:#06x}");
                }
            }
        }

        #[test]
        fn a_zero_vector_is_at_right_angles_to_everything() {
            if let Some(k) = kernels() {
                assert_eq!(k.cosine_distance(&[0.0f32; 19], &[1.0; 19]), 1.0);
                assert_eq!(k.cosine_distance(&[0.0f32; 19], &[0.0; 19]), 1.0);
                assert_eq!(k.cosine_distance::<f32>(&[], &[]), 1.0);
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

suite!(scalar, portable, avx2, avx512, avx512vnni, neon, neondot);

#[test]
fn a_set_that_is_not_there_is_an_error_that_names_those_that_are() {
    let error = choose(Some("mmx")).unwrap_err();
    assert!(error.to_string().contains("\"mmx\"") && error.to_string().contains("scalar"), "{error}");
    assert_eq!(choose(Some("portable")).unwrap().name(), "portable");
    assert_eq!(choose(None).unwrap().name(), available().last().unwrap().name());
}
