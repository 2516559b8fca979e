//! Instruction sets of x86-64 beyond its baseline; used only where the processor says that it has them.

pub(super) mod avx2;
pub(super) mod avx512;
