//! Encodings as values.

use std::fmt;

use super::{Bf16, Encoding, F16, F32, I8, SplitF32, SplitI8};

/// How rows are encoded, as a value: there is one for each [`Encoding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// [`F32`].
    F32,
    /// [`F16`].
    F16,
    /// [`Bf16`].
    Bf16,
    /// [`I8`].
    I8,
    /// [`SplitF32`].
    SplitF32,
    /// [`SplitI8`].
    SplitI8,
}

impl ElementType {
    /// That of an encoding.
    pub fn of<E: Encoding>() -> ElementType {
        match E::CODE {
            F16::CODE => ElementType::F16,
            Bf16::CODE => ElementType::Bf16,
            I8::CODE => ElementType::I8,
            SplitF32::CODE => ElementType::SplitF32,
            SplitI8::CODE => ElementType::SplitI8,
            // There are no others.
            _ => ElementType::F32,
        }
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u32 {
        match self {
            ElementType::F32 => F32::CODE,
            ElementType::F16 => F16::CODE,
            ElementType::Bf16 => Bf16::CODE,
            ElementType::I8 => I8::CODE,
            ElementType::SplitF32 => SplitF32::CODE,
            ElementType::SplitI8 => SplitI8::CODE,
        }
    }

    /// The encoding that a number stands for.
    pub fn from_code(code: u32) -> Option<ElementType> {
        match code {
            F32::CODE => Some(ElementType::F32),
            F16::CODE => Some(ElementType::F16),
            Bf16::CODE => Some(ElementType::Bf16),
            I8::CODE => Some(ElementType::I8),
            SplitF32::CODE => Some(ElementType::SplitF32),
            SplitI8::CODE => Some(ElementType::SplitI8),
            _ => None,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
            ElementType::I8 => "i8",
            ElementType::SplitF32 => "split-f32",
            ElementType::SplitI8 => "split-i8",
        })
    }
}
