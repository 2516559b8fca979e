//! Rows that may be answers: a file that names them, or a share of all of them, drawn always the same way.

use std::path::PathBuf;
use std::str::FromStr;

use kriya_datasets::{Matrix, ids};

use crate::failure::{Failure, Outcome};

/// What a search is restricted to.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// So large a part of the rows, whatever is in them: above 0, at most 1.
    Share(f64),
    /// The rows whose numbers are in a file (`ibin`, `ivecs`).
    File(PathBuf),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
        match number.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= unit => Ok(Filter::Share(share / unit)),
            Ok(_) => Err(format!("{text} is not a share of the rows: above 0, at most 1 or 100%")),
            Err(_) => Ok(Filter::File(text.into())),
        }
    }
}

impl Filter {
    /// The numbers of the rows, ascending, each once.
    ///
    /// # Errors
    /// A file that cannot be read, a row that does not exist, fewer than the `k` neighbours that are asked for.
    pub fn rows(&self, count: usize, k: usize) -> Outcome<Vec<u32>> {
        let all = u32::try_from(count).map_err(|_| Failure::new(format!("{count} rows are too many for a filter")))?;
        let mut rows: Vec<u32> = match self {
            Filter::Share(share) => {
                let mut rows: Vec<u32> = (0..all).collect();
                rows.sort_by_key(|id| mixed(*id));
                rows.truncate((share * f64::from(all)).round() as usize);
                rows
            }
            Filter::File(path) => ids(path)?.values().to_vec(),
        };
        rows.sort_unstable();
        rows.dedup();
        if let Some(beyond) = rows.last().filter(|last| **last >= all) {
            return Err(Failure::new(format!("the filter names row {beyond}, there are {count}")));
        }
        if rows.len() < k {
            return Err(Failure::new(format!(
                "the filter lets {} rows through, {k} neighbours are wanted",
                rows.len()
            )));
        }
        Ok(rows)
    }
}

/// Numbers in no order, the same ones on every machine (the finaliser of SplitMix64).
fn mixed(id: u32) -> u64 {
    let mut z = (u64::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A list of row numbers as a table of one column.
///
/// # Errors
/// An empty list.
pub fn column(rows: &[u32]) -> Outcome<Matrix<u32>> {
    Matrix::new(rows.to_vec(), 1).ok_or_else(|| Failure::new("the filter lets nothing through"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_a_percentage_and_all_else_is_a_file() {
        assert_eq!("0.005".parse(), Ok(Filter::Share(0.005)));
        assert_eq!("50%".parse(), Ok(Filter::Share(0.5)));
        assert_eq!("rows.ibin".parse(), Ok(Filter::File("rows.ibin".into())));
        for wrong in ["0", "1.5", "-1%", "101%", "nan"] {
            assert!(wrong.parse::<Filter>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_drawn_the_same_way_every_time_and_from_everywhere() {
        let rows = Filter::Share(0.01).rows(60_000, 10).unwrap();
        assert_eq!(rows, Filter::Share(0.01).rows(60_000, 10).unwrap());
        assert_eq!(rows.len(), 600);
        let lower = rows.iter().filter(|id| **id < 30_000).count();
        assert!((200..400).contains(&lower), "{lower} of 600 are from the first half");
    }

    #[test]
    fn a_filter_that_cannot_answer_is_refused() {
        let said = Filter::Share(0.001).rows(1000, 10).unwrap_err().to_string();
        assert!(said.contains("lets 1 rows through"), "{said}");
    }
}
