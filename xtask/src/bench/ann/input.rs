//! What is measured on: rows, queries and true neighbours from files of any format, handed to all subjects as the same
//! `fbin` files.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use kriya_datasets::{Matrix, exact_telling, ids, vectors, write_fbin, write_ibin};

use super::Options;
use super::filter::column;
use crate::dataset::{MetricName, style};
use crate::failure::{Failure, Outcome};
use crate::places;

/// A set of vectors, ready for the subjects.
pub struct Input {
    /// What the set is called in records.
    pub set: String,
    /// How rows are compared.
    pub metric: MetricName,
    /// Number of rows.
    pub rows: usize,
    /// Their dimension.
    pub dim: usize,
    /// Row numbers of each query's nearest rows.
    pub truth: Matrix<u32>,
    /// Neighbours that a query asks for.
    pub k: usize,
    /// Links of a node.
    pub m: usize,
    /// Width of the search when a node is linked.
    pub ef_construction: usize,
    /// How many rows may be answers, if not all.
    pub allowed: Option<usize>,
    folder: PathBuf,
}

impl Input {
    /// Reads what the options name and writes it for the subjects.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit each other.
    pub fn read(options: &Options) -> Outcome<Input> {
        let [base_path, query_path, truth_path] = files(options)?;
        let base_path = base_path.unwrap_or_else(|| options.base.clone());
        let query_path = query_path.ok_or_else(|| Failure::new("--query is missing: which file holds the queries?"))?;
        let (base, queries) = (vectors(&base_path)?, vectors(&query_path)?);
        let filter = options.filter.as_ref().map(|filter| filter.rows(base.len(), options.k)).transpose()?;
        let truth = match (truth_path, &filter) {
            (Some(path), _) => ids(&path)?,
            (None, None) => exact(options, &base, &queries)?,
            (None, Some(rows)) => among(options, &base, rows, &queries)?,
        };
        if base.dim() != queries.dim() || truth.len() != queries.len() || base.is_empty() || truth.dim() < options.k {
            return Err(Failure::new(format!(
                "rows ({} x {}), queries ({} x {}) and their true neighbours ({} x {}) do not fit, or hold fewer than the \
                 {} that are asked for",
                base.len(),
                base.dim(),
                queries.len(),
                queries.dim(),
                truth.len(),
                truth.dim(),
                options.k
            )));
        }
        let folder = places::state().join(format!("bench-ann-{}", std::process::id()));
        let input = Input {
            set: options.name.clone().unwrap_or_else(|| name(&base_path)),
            metric: options.metric,
            rows: base.len(),
            dim: base.dim(),
            truth,
            k: options.k,
            m: options.m,
            ef_construction: options.ef_construction,
            allowed: filter.as_ref().map(Vec::len),
            folder,
        };
        std::fs::create_dir_all(&input.folder).map_err(Failure::doing("making", &input.folder))?;
        write_fbin(&input.base_file(), &base)?;
        write_fbin(&input.query_file(), &queries)?;
        if let (Some(filter), Some(file)) = (&filter, input.filter_file()) {
            write_ibin(&file, &column(filter)?)?;
        }
        Ok(input)
    }

    /// Where the subjects find files and leave answers; gone when this is dropped.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The rows.
    pub fn base_file(&self) -> PathBuf {
        self.folder.join("base.fbin")
    }

    /// The queries.
    pub fn query_file(&self) -> PathBuf {
        self.folder.join("query.fbin")
    }

    /// The numbers of the rows that may be answers.
    pub fn filter_file(&self) -> Option<PathBuf> {
        self.allowed.map(|_| self.folder.join("filter.ibin"))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // What cannot be removed is below the target folder.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

/// Rows, queries and truth: of an HDF5 file that is named without a table, those of ann-benchmarks.
fn files(options: &Options) -> Outcome<[Option<PathBuf>; 3]> {
    let ends = [".hdf5", ".hdf5.gz", ".h5", ".h5.gz"];
    let whole = options.base.to_str().filter(|path| ends.iter().any(|end| path.ends_with(end)));
    let table = |name: &str| whole.map(|path| PathBuf::from(format!("{path}:{name}")));
    // What the file calls neighbours are those among all rows.
    let neighbours = || if options.filter.is_none() { table("neighbors") } else { None };
    Ok([table("train"), options.query.clone().or_else(|| table("test")), options.gt.clone().or_else(neighbours)])
}

fn exact(options: &Options, base: &Matrix<f32>, queries: &Matrix<f32>) -> Outcome<Matrix<u32>> {
    println!("no --gt: every query is compared with {} rows", base.len());
    let bar = ProgressBar::new(queries.len() as u64);
    bar.set_style(style("{wide_bar} {pos}/{len} queries, {eta} left"));
    let truth = exact_telling(options.metric.metric(), base, queries, options.k, &|| bar.inc(1))?;
    bar.finish_and_clear();
    Matrix::new(truth.ids.concat(), options.k).ok_or_else(|| Failure::new("--k is 0: there is nothing to look for"))
}

/// The true neighbours among some of the rows.
fn among(options: &Options, base: &Matrix<f32>, rows: &[u32], queries: &Matrix<f32>) -> Outcome<Matrix<u32>> {
    let places: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
    let found = exact(options, &base.select(&places), queries)?;
    let ids = found.values().iter().map(|place| rows[*place as usize]).collect();
    Matrix::new(ids, found.dim()).ok_or_else(|| Failure::new("--k is 0: there is nothing to look for"))
}

/// A set is called after its HDF5 file, or after the folder that it is in.
fn name(base: &Path) -> String {
    let said = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let file = said(base.file_name()).unwrap_or_default();
    match file.split_once(".hdf5").or_else(|| file.split_once(".h5")) {
        Some((stem, _)) => stem.to_owned(),
        None => {
            let whole = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
            said(whole.parent().and_then(Path::file_name)).unwrap_or(file)
        }
    }
}
