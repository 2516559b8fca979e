//! The formats, by the end of a file's name, and how their bytes are laid out.
//!
//! | ending | layout, little-endian unless said otherwise |
//! | --- | --- |
//! | `fbin`, `f16bin`, `u8bin`, `i8bin`, `ibin` | `u32` rows, `u32` dimension, then the values (f32, f16, u8, i8, i32), row after row |
//! | `fvecs`, `bvecs`, `ivecs` | per row: `i32` dimension, then the values (f32, u8, i32); every row has the same |
//! | `idx3-ubyte`, `idx1-ubyte` | big-endian: `0 0 8 D`, D times `u32` extent, then u8 values; a row is one image |
//!
//! | `hdf5`, `h5` | tables by name; which one is said after a colon: `sift.hdf5:train` (see `hdf5`) |
//!
//! Each may be followed by `.gz`.

use std::path::Path;

/// How one value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Signed 32 bit.
    I32,
}

impl Element {
    /// Bytes per value.
    pub fn size(self) -> usize {
        match self {
            Element::F32 | Element::I32 => 4,
            Element::F16 => 2,
            Element::U8 | Element::I8 => 1,
        }
    }
}

/// Where dimensions stand and rows begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One header of two numbers, then all values.
    Bin,
    /// Each row with its dimension before it.
    Vecs,
    /// Big-endian extents, then all values.
    Idx,
}

/// A file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Where rows begin.
    pub layout: Layout,
    /// What they are made of.
    pub element: Element,
    /// Whether the whole is gzipped.
    pub gzipped: bool,
}

impl Format {
    /// The format that the name of `path` tells.
    pub fn of(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?;
        let (name, gzipped) = name.strip_suffix(".gz").map_or((name, false), |inner| (inner, true));
        let (layout, element) = match name {
            _ if name.ends_with("idx3-ubyte") || name.ends_with("idx1-ubyte") => (Layout::Idx, Element::U8),
            _ => match name.rsplit_once('.')?.1 {
                "fbin" => (Layout::Bin, Element::F32),
                "f16bin" => (Layout::Bin, Element::F16),
                "u8bin" => (Layout::Bin, Element::U8),
                "i8bin" => (Layout::Bin, Element::I8),
                "ibin" => (Layout::Bin, Element::I32),
                "fvecs" => (Layout::Vecs, Element::F32),
                "bvecs" => (Layout::Vecs, Element::U8),
                "ivecs" => (Layout::Vecs, Element::I32),
                _ => return None,
            },
        };
        Some(Format { layout, element, gzipped })
    }
}
