//! Public sets of vectors: where they are published, what they hold, and a checksum where the publisher gives one.
//!
//! Addresses and shapes are as ann-benchmarks and the authors of Fashion-MNIST list them; the exception is
//! `dbpedia-openai-1000k-angular`, whose address is that which other projects use, and whose shape was not seen in a list.
//! Fetching a set compares its shape with what is said here. None of these was fetched when this was written. A file without a checksum here has none that was seen
//! anywhere; what its first download brings is recorded, and later ones are compared with that.

use crate::truth::Metric;

/// What a file's bytes are compared with, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Published as MD5: tells damage, not forgery.
    Md5(&'static str),
    /// SHA-256.
    Sha256(&'static str),
}

/// One published file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicFile {
    /// Where it is published; the last part is its name.
    pub address: &'static str,
    /// Its checksum, where one was published.
    pub checksum: Option<Checksum>,
}

impl PublicFile {
    /// The file's name: the last part of its address.
    pub fn name(&self) -> &'static str {
        self.address.rsplit('/').next().unwrap_or(self.address)
    }
}

/// A set of vectors, with held-out queries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublicSet {
    /// What it is called here, as a folder is.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// How its rows are compared.
    pub metric: Metric,
    /// Rows of the base.
    pub rows: usize,
    /// Their dimension.
    pub dim: usize,
    /// Number of queries.
    pub queries: usize,
    /// Its files.
    pub files: &'static [PublicFile],
    /// Path in the set's folder of base, queries and true neighbours; none where the publisher has no true neighbours.
    pub parts: [Option<&'static str>; 3],
}

/// The set called `name`.
pub fn public_set(name: &str) -> Option<&'static PublicSet> {
    CATALOGUE.iter().find(|set| set.name == name)
}

/// A set that is one HDF5 file with the tables `train`, `test` and `neighbors`.
macro_rules! hdf5 {
    ($name:literal, $host:literal, $about:literal, $metric:ident, $rows:literal x $dim:literal, $queries:literal) => {
        PublicSet {
            name: $name,
            about: $about,
            metric: Metric::$metric,
            rows: $rows,
            dim: $dim,
            queries: $queries,
            files: &[PublicFile { address: concat!($host, "/", $name, ".hdf5"), checksum: None }],
            parts: [
                Some(concat!($name, ".hdf5:train")),
                Some(concat!($name, ".hdf5:test")),
                Some(concat!($name, ".hdf5:neighbors")),
            ],
        }
    };
}

/// A file of Fashion-MNIST; MD5 as in the set's README.
const fn fashion(address: &'static str, md5: &'static str) -> PublicFile {
    PublicFile { address, checksum: Some(Checksum::Md5(md5)) }
}

/// Every set that is known by name.
pub const CATALOGUE: &[PublicSet] = &[
    hdf5!("sift-128-euclidean", "http://ann-benchmarks.com", "SIFT1M", L2, 1_000_000 x 128, 10_000),
    hdf5!("gist-960-euclidean", "http://ann-benchmarks.com", "GIST1M", L2, 1_000_000 x 960, 1_000),
    hdf5!("glove-25-angular", "http://ann-benchmarks.com", "GloVe of tweets", Cosine, 1_183_514 x 25, 10_000),
    hdf5!("glove-50-angular", "http://ann-benchmarks.com", "GloVe of tweets", Cosine, 1_183_514 x 50, 10_000),
    hdf5!("glove-100-angular", "http://ann-benchmarks.com", "GloVe of tweets", Cosine, 1_183_514 x 100, 10_000),
    hdf5!("glove-200-angular", "http://ann-benchmarks.com", "GloVe of tweets", Cosine, 1_183_514 x 200, 10_000),
    hdf5!("fashion-mnist-784-euclidean", "http://ann-benchmarks.com", "images of clothes", L2, 60_000 x 784, 10_000),
    hdf5!("mnist-784-euclidean", "http://ann-benchmarks.com", "images of digits", L2, 60_000 x 784, 10_000),
    hdf5!("nytimes-256-angular", "http://ann-benchmarks.com", "bags of words", Cosine, 290_000 x 256, 10_000),
    hdf5!("lastfm-64-dot", "http://ann-benchmarks.com", "who listens to whom", Cosine, 292_385 x 65, 50_000),
    hdf5!("deep-image-96-angular", "http://ann-benchmarks.com", "DEEP10M", Cosine, 9_990_000 x 96, 10_000),
    hdf5!(
        "dbpedia-openai-1000k-angular",
        "https://storage.googleapis.com/ann-datasets/ann-benchmarks",
        "DBpedia articles, text-embedding-ada-002",
        Cosine,
        990_000 x 1536,
        10_000
    ),
    PublicSet {
        name: "fashion-mnist-images",
        about: "Fashion-MNIST as its authors publish it",
        metric: Metric::L2,
        rows: 60_000,
        dim: 784,
        queries: 10_000,
        files: &[
            fashion(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
            fashion(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
                "bef4ecab320f06d8554ea6380940ec79",
            ),
            fashion(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
                "25c81989df183df01b3e8a0aad5dffbe",
            ),
        ],
        parts: [Some("train-images-idx3-ubyte.gz"), Some("t10k-images-idx3-ubyte.gz"), None],
    },
];
