//! Speed over recall, from measurements at several widths of the search.

/// The middle one; the mean of the middle two of an even number.
pub fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() {
        0 => None,
        n if n % 2 == 1 => Some(all[middle]),
        _ => Some((all[middle - 1] + all[middle]) / 2.0),
    }
}

/// Speed at a recall, of (recall, speed) at ascending widths: between the two widths around it, linear in the logarithm.
/// `None` if no width reaches it; the first width's speed where that does already.
pub fn speed_at(curve: &[(f64, f64)], recall: f64) -> Option<f64> {
    let at = curve.iter().position(|point| point.0 >= recall)?;
    let above = curve[at];
    let below = at.checked_sub(1).map(|before| curve[before]).filter(|below| below.0 < above.0);
    let Some(below) = below else { return Some(above.1) };
    let part = (recall - below.0) / (above.0 - below.0);
    Some((below.1.ln() + part * (above.1.ln() - below.1.ln())).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_at_a_recall_lies_between_the_two_widths_around_it() {
        let curve = [(0.98, 4000.0), (1.0, 1000.0)];
        // Half way in recall, half way in the logarithm.
        assert!((speed_at(&curve, 0.99).unwrap() - 2000.0).abs() < 1e-6);
        assert_eq!(speed_at(&curve, 0.5), Some(4000.0));
        assert_eq!(speed_at(&curve[..1], 0.99), None);
    }

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        assert_eq!(median(vec![3.0, 100.0, 1.0]), Some(3.0));
        assert_eq!(median(vec![3.0, 100.0]), Some(51.5));
        assert_eq!(median(Vec::new()), None);
    }
}
