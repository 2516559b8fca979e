//! Who is measured: libraries, each with the encodings of vectors that were asked for.

use clap::ValueEnum;

use super::Options;
use super::peers::Peer;
use crate::failure::{Failure, Outcome};

/// What this project's own subject is called.
pub const OWN: &str = "kriyadb";
/// The same rows, but all that may be answers are compared: what a filtered search has to beat.
pub const SCAN: &str = "kriyadb-scan";

/// How vectors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// 4 bytes a component
    F32,
    /// 4 bytes, searched by the upper two
    SplitF32,
    /// 2 bytes, 11 significant bits
    F16,
    /// 2 bytes, the range of f32
    Bf16,
    /// 1 byte, with a scale
    I8,
    /// 1 byte, with a scale, searched by 4 bits of it
    SplitI8,
}

impl Encoding {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::SplitF32 => "split-f32",
            Encoding::F16 => "f16",
            Encoding::Bf16 => "bf16",
            Encoding::I8 => "i8",
            Encoding::SplitI8 => "split-i8",
        }
    }
}

/// Who is measured, and how it stores vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// [`OWN`], [`SCAN`], or a peer.
    pub library: String,
    /// How vectors are stored.
    pub encoding: Encoding,
    /// Whether what it finds is compared once more with vectors of f32.
    pub rerank: bool,
}

impl Subject {
    /// Its name and its encoding, as people read them.
    pub fn shown(&self) -> String {
        shown(&self.library, self.encoding.name(), self.rerank)
    }
}

/// A library and its encoding, as people read them.
pub fn shown(library: &str, encoding: &str, rerank: bool) -> String {
    format!("{library} {encoding}{}", if rerank { "+f32" } else { "" })
}

/// All that the options name, our own first.
///
/// # Errors
/// A peer that cannot do what is to be measured.
pub fn subjects(options: &Options) -> Outcome<Vec<Subject>> {
    let mut all: Vec<Subject> = Vec::new();
    let mut add = |library: &str, encoding: Encoding, reranks: bool| {
        let rerank = reranks && !matches!(encoding, Encoding::F32 | Encoding::SplitF32) && !options.no_rerank;
        let subject = Subject { library: library.to_owned(), encoding, rerank };
        if !all.contains(&subject) {
            all.push(subject);
        }
    };
    for encoding in &options.encoding {
        add(OWN, *encoding, true);
        if options.filter.is_some() {
            add(SCAN, *encoding, true);
        }
    }
    for name in &options.peers {
        let peer = Peer::of(name).ok_or_else(|| Failure::new(format!("nobody knows the peer {name}")))?;
        if options.filter.is_some() && !peer.filters {
            return Err(Failure::new(format!(
                "{name} has no filter that its Python binding could pass without calling back for every row"
            )));
        }
        peer.encodings(&options.encoding).into_iter().for_each(|encoding| add(name, encoding, peer.reranks));
    }
    Ok(all)
}
