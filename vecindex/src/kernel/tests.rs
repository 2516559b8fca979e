//! The same suite for every instruction set of this architecture, against f64; a set that this machine lacks is named and
//! left out, but a failure if `VECINDEX_TEST_MUST_HAVE` names it.

use proptest::prelude::*;

use half::{bf16, f16};

use super::codes::AT_ONCE;
use super::{Element, FloatKernels, Kernels, available, choose, select};

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

/// What the module promises of a sum of `d` terms whose sizes add up to `size`; results below the normal range aside.
fn slack(k: &Kernels, size: f64, d: usize) -> f64 {
    let lanes = match k.name() {
        "scalar" => 1,
        "neon" | "neondot" => 4,
        "portable" | "avx2" | "avx2vnni" => 8,
        _ => 16,
    };
    let steps = d.div_ceil(lanes) + lanes.ilog2() as usize + 5;
    size * steps as f64 * 2.0f64.powi(-24) + 1e-36
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
    assert!((f64::from(k.dot(a, b)) - dot).abs() <= slack(k, size, a.len()), "dot of {} floats", a.len());
    let l2 = l264(a, b);
    assert!((f64::from(k.l2_squared(a, b)) - l2).abs() <= slack(k, l2, a.len()), "l2 of {} floats", a.len());
    let (aa, bb) = (dot64(a, a).0, dot64(b, b).0);
    let cosine = if aa == 0.0 || bb == 0.0 { 1.0 } else { 1.0 - dot / (aa * bb).sqrt() };
    assert!((f64::from(k.cosine_distance(a, b)) - cosine).abs() <= 1e-4, "cosine of {} floats", a.len());
}

fn rows_agree<T: Copy>(
    k: &Kernels,
    table: &FloatKernels<T>,
    d: usize,
    rows: &[Vec<f32>],
    to: fn(f32) -> T,
    from: fn(T) -> f32,
) {
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
    unsafe { (table.rows_l2)(query, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let expected = l264(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(k, expected, d));
        // SAFETY: as above.
        let pair = unsafe { (table.pair_l2)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
    // SAFETY: as above.
    unsafe { (table.rows_dot)(query, base, stride, &ids, &mut out) };
    for (id, got) in ids.iter().zip(&out) {
        let (expected, size) = dot64(&rows[0], &rows[*id as usize]);
        assert!((f64::from(*got) - expected).abs() <= slack(k, size, d));
        // SAFETY: as above.
        let pair = unsafe { (table.pair_dot)(base, base.add(*id as usize * stride), stride) };
        assert_eq!(pair.to_bits(), got.to_bits(), "a pair and a batch disagree");
    }
}

fn halves_agree(k: &Kernels, offset: usize, a: &[f32], b: &[f32]) {
    let halves = |v: &[f32]| v.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
    floats_agree(k, &halves(a)[offset..], &halves(b)[offset..], f16::to_f32);
    let halves = |v: &[f32]| v.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
    floats_agree(k, &halves(a)[offset..], &halves(b)[offset..], bf16::to_f32);
}

fn floats_agree<T: Element<Sum = f32>>(k: &Kernels, x: &[T], y: &[T], from: fn(T) -> f32) {
    let (a, b): (Vec<f32>, Vec<f32>) = (x.iter().map(|x| from(*x)).collect(), y.iter().map(|x| from(*x)).collect());
    let (dot, size) = dot64(&a, &b);
    assert!((f64::from(k.dot(x, y)) - dot).abs() <= slack(k, size, a.len()));
    let l2 = l264(&a, &b);
    assert!((f64::from(k.l2_squared(x, y)) - l2).abs() <= slack(k, l2, a.len()));
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

fn nibbles_agree(k: &Kernels, rows: &[Vec<i8>]) {
    // Parts of `n` bytes and of twice as many numbers; the second part of each row is compared.
    let d = rows[0].len();
    let n = d.next_multiple_of(LINE_BYTES);
    let query: Vec<i8> = rows.iter().flatten().copied().cycle().take(2 * n).collect();
    let query_lines = padded(std::slice::from_ref(&query), 2 * n);
    let stored: Vec<Vec<u8>> = rows.iter().map(|row| row.iter().map(|x| *x as u8).collect()).collect();
    let lines = padded(&stored, n);
    let base = lines.as_ptr().cast::<u8>();
    let ids: Vec<u32> = (0..rows.len() as u32 - 1).rev().collect();
    let mut out = vec![i32::MIN; ids.len()];
    // SAFETY: `lines` holds rows.len() runs of `n` bytes, so one less of those that begin at the second; `query` is twice as long.
    unsafe { (k.codes.nibbles)(query_lines.as_ptr().cast(), base.add(n), n, n, &ids, &mut out) };
    for (id, got) in ids.iter().zip(out) {
        let row = &stored[*id as usize + 1];
        let products = row.iter().enumerate().map(|(at, both)| {
            i32::from(both & 0xf) * i32::from(query[at]) + i32::from(both >> 4) * i32::from(query[n + at])
        });
        assert_eq!(got, products.sum::<i32>());
    }
}

/// The kernels of a name, if this machine can run them.
fn found(name: &str) -> Option<&'static Kernels> {
    let found = available().into_iter().find(|k| k.name() == name);
    if found.is_none() {
        let required = std::env::var("VECINDEX_TEST_MUST_HAVE").unwrap_or_default();
        assert!(!required.split(',').any(|one| one == name), "{name} has to be tested, but this machine lacks it");
        eprintln!("{name} is not available on this machine: not tested");
    }
    found
}

/// Numbers between -100 and 100 without order, some of them zero.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f372);
        if state >> 28 == 0 { 0.0 } else { (state >> 8) as f32 / 83_886.08 - 100.0 }
    };
    std::iter::repeat_with(&mut next).take(n).collect()
}

/// Every value of two bytes, sixteen times, by one: exact, infinite or not a number as in f32.
fn values_are_read<T: Element<Sum = f32> + Into<f32>>(k: &Kernels, from_bits: fn(u16) -> T, one: [T; 2]) {
    for bits in 0..=u16::MAX {
        let sign = usize::from(bits % 3 == 0);
        let expected = Into::<f32>::into(from_bits(bits)) * [1.0, -1.0][sign] * 16.0;
        for d in [16, 17] {
            let (mut x, y) = (vec![from_bits(bits); d], vec![one[sign]; d]);
            x[16..].fill(from_bits(0));
            let got = k.dot(&x, &y);
            assert!(got == expected || (got.is_nan() && expected.is_nan()), "{bits:#06x}: {got}, expected {expected}");
        }
    }
}

macro_rules! suite {
    ($($name:ident),*) => { $(mod $name {
        use super::*;

        fn kernels() -> Option<&'static Kernels> {
            found(stringify!($name))
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
                    rows_agree(k, &k.f32, d, &rows, |x| x, |x| x);
                    rows_agree(k, &k.f16, d, &rows, f16::from_f32, f16::to_f32);
                    rows_agree(k, &k.bf16, d, &rows, bf16::from_f32, bf16::to_f32);
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
                    nibbles_agree(k, &rows);
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
                // Bytes of -1 are numbers of 15, met by -128 and by 127.
                nibbles_agree(k, &[vec![-128; AT_ONCE / 2], vec![-1; AT_ONCE / 2]]);
                nibbles_agree(k, &[vec![127; AT_ONCE / 2], vec![-1; AT_ONCE / 2]]);
            }
        }

        #[test]
        fn every_float_of_two_bytes_is_read_as_what_it_is() {
            if let Some(k) = kernels() {
                values_are_read(k, f16::from_bits, [f16::ONE, f16::NEG_ONE]);
                values_are_read(k, bf16::from_bits, [bf16::ONE, bf16::NEG_ONE]);
            }
        }

        #[test]
        fn every_length_up_to_130_from_every_alignment_agrees_with_f64() {
            if let Some(k) = kernels() {
                for d in 0..=130 {
                    let (a, b) = (numbers(d + 17, 1 + d as u32), numbers(d + 17, 1001 + d as u32));
                    let bytes = |v: &[f32]| v.iter().map(|x| (*x * 1.28) as i8).collect::<Vec<_>>();
                    let (x, y) = (bytes(&a), bytes(&b));
                    for offset in [0, 1, 2, 3, 5, 7, 16] {
                        let at = offset..offset + d;
                        slices_agree(k, 0, &a[at.clone()], &b[at.clone()]);
                        // The two need not be aligned in the same way.
                        slices_agree(k, 0, &a[at.clone()], &b[..d]);
                        halves_agree(k, offset, &a[..offset + d], &b[..offset + d]);
                        bytes_agree(k, &x[at.clone()], &y[at.clone()]);
                        bytes_agree(k, &x[at], &y[..d]);
                    }
                }
                for d in 1..=130 {
                    let rows: Vec<Vec<f32>> = (0..3).map(|seed| numbers(d, seed)).collect();
                    rows_agree(k, &k.f32, d, &rows, |x| x, |x| x);
                    rows_agree(k, &k.f16, d, &rows, f16::from_f32, f16::to_f32);
                    rows_agree(k, &k.bf16, d, &rows, bf16::from_f32, bf16::to_f32);
                    let codes: Vec<_> = rows.iter().map(|row| row.iter().map(|x| (*x * 1.28) as i8).collect()).collect();
                    code_rows_agree(k, &codes);
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

suite!(scalar, portable);
#[cfg(target_arch = "x86_64")]
suite!(avx2, avx2vnni, avx512, avx512vnni);
#[cfg(target_arch = "aarch64")]
suite!(neon, neondot);

#[test]
fn a_set_that_is_not_there_is_an_error_that_names_those_that_are() {
    let error = choose(Some("mmx")).unwrap_err();
    assert!(error.to_string().contains("\"mmx\"") && error.to_string().contains("scalar"), "{error}");
    assert_eq!(choose(Some("portable")).unwrap().name(), "portable");
    assert_eq!(choose(None).unwrap().name(), available().last().unwrap().name());
}

/// In a process that was started with `VECINDEX_ISA`, prints what came of it; without, starts such processes.
#[test]
fn a_process_takes_the_set_that_its_environment_names_or_none() {
    const CHILD: &str = "VECINDEX_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let region = || std::sync::Arc::new(kriya_region::Region::heap(1 << 16).unwrap());
        let rows = crate::F32Rows::create(region(), crate::Metric::L2, 2, 4);
        match select() {
            Ok(kernels) => println!("chose {}", kernels.name()),
            Err(error) => println!("refused: {error}; rows: {}", rows.unwrap_err()),
        }
        return;
    }
    let says = |isa: &str| {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let name = concat!(module_path!(), "::a_process_takes_the_set_that_its_environment_names_or_none");
        again.args(["--nocapture", "--exact", name.split_once("::").unwrap().1]);
        let out = again.env(CHILD, "1").env("VECINDEX_ISA", isa).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    for kernels in available() {
        let (name, said) = (kernels.name(), says(kernels.name()));
        assert!(said.contains(&format!("chose {name}\n")), "{said}");
    }
    let said = says("sse9");
    assert!(said.contains("refused: VECINDEX_ISA is \"sse9\", expected one of scalar"), "{said}");
    assert_eq!(said.matches("sse9").count(), 2, "rows are refused, too: {said}");
}
