//! Rows of equal length in one piece of memory.
//!
//! Invariants: the dimension is not 0, and the number of values is a multiple of it.

/// `rows x dim` values, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix<T> {
    values: Vec<T>,
    dim: usize,
}

impl<T> Matrix<T> {
    /// Rows of `dim` values each; none if `dim` is 0 or does not divide the number of values.
    pub fn new(values: Vec<T>, dim: usize) -> Option<Matrix<T>> {
        (dim != 0 && values.len().is_multiple_of(dim)).then_some(Matrix { values, dim })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values per row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Matrix::len`], as a slice does.
    pub fn row(&self, i: usize) -> &[T] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// Every row, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.values.chunks_exact(self.dim)
    }

    /// All values, row after row.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The rows whose numbers are `which`, in that order.
    ///
    /// # Panics
    /// If one of them is not below [`Matrix::len`].
    #[must_use]
    pub fn select(&self, which: &[usize]) -> Matrix<T>
    where
        T: Clone,
    {
        let values = which.iter().flat_map(|i| self.row(*i).iter().cloned()).collect();
        Matrix { values, dim: self.dim }
    }
}
