//! What is measured on: real vectors, held-out queries, and the true neighbours. Everything that a client sends is
//! written down beforehand, so that the clock runs for the server.

use std::path::Path;

use clap::ValueEnum;
use kriya_datasets::{Matrix, ids, vectors};

use crate::failure::{Failure, Outcome};
use crate::places;

/// A set of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Set {
    /// 60,000 images of 784 pixels under L2; the files are yours to bring
    FashionMnist,
    /// Package descriptions, 384 dimensions under cosine: 58,000 where the whole set is there, else the 6,000 checked in
    Packages,
}

/// A set that was read.
pub struct Data {
    /// What it is called.
    pub name: &'static str,
    /// `l2` or `cosine`.
    pub metric: &'static str,
    /// Operator of the metric.
    pub operator: &'static str,
    /// The rows.
    pub base: Matrix<f32>,
    /// The queries as SQL text.
    pub queries: Vec<String>,
    /// Row numbers of each query's nearest rows.
    pub truth: Matrix<u32>,
}

impl Data {
    /// Reads a set, from `folder` (where the large sets are) or, if `small`, what is checked in.
    ///
    /// # Errors
    /// If it is not there, or rows, queries and truth do not fit.
    pub fn read(set: Set, folder: &Path, small: bool) -> Outcome<Data> {
        match set {
            Set::FashionMnist => {
                let files = ["train-images-idx3-ubyte.gz", "query-1k.u8bin.gz", "gt-l2-1k.ibin"];
                Data::of("fashion-mnist", ("l2", "<->"), &folder.join("fashion-mnist-784-euclidean"), files)
            }
            Set::Packages => {
                let whole = folder.join("deb-minilm-384-cosine");
                if small || !whole.is_dir() {
                    let files = ["base.f16bin.gz", "query.fbin", "gt-cosine.ibin"];
                    let folder = places::workspace().join("datasets/packages");
                    return Data::of("packages-6k", ("cosine", "<=>"), &folder, files);
                }
                Data::of("packages", ("cosine", "<=>"), &whole, ["base.f16bin.gz", "query.fbin.gz", "gt-cosine.ibin"])
            }
        }
    }

    fn of(
        name: &'static str,
        (metric, operator): (&'static str, &'static str),
        folder: &Path,
        [base, queries, truth]: [&str; 3],
    ) -> Outcome<Data> {
        let (base, truth) = (vectors(&folder.join(base))?, ids(&folder.join(truth))?);
        let queries = vectors(&folder.join(queries))?;
        if queries.dim() != base.dim() || truth.len() != queries.len() || base.is_empty() {
            return Err(Failure::new(format!("{}: rows, queries and true neighbours do not fit", folder.display())));
        }
        Ok(Data { name, metric, operator, queries: queries.rows().map(text).collect(), base, truth })
    }
}

/// A vector as SQL text.
pub fn text(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", values.join(","))
}
