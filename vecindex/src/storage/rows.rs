//! f32 rows in a region: private memory, shared memory that grows, or a sealed file. The bytes are drawn in `format`.
//!
//! Rows are padded with zeros to a multiple of 64 bytes and aligned to it, so that kernels need no tails. Under cosine a
//! row is stored normalised, its length beside it, so that the distance is one inner product and `read` gives back the
//! original up to rounding.
//!
//! # Invariants
//! * A row's bytes and its norm are written before the length is released, and never again.
//! * `stride * capacity` was checked against the region once; every access is below `capacity`.
//! * Only the value made by `create` appends, under its lock; whoever `open`s reads.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use kriya_region::Region;

use super::{AppendVectors, Rerank, VectorStorage};
use crate::error::{CreateError, OpenError, PushError, RerankError, VectorError};
use crate::format::{self, ELEMENT_F32, Fields, MAX_DIM, MAX_ROWS, ROWS_MAGIC, RowsLayout, at};
use crate::kernel::{self, Kernels, LINE, prefetch_line};
use crate::metric::{Metric, Neighbour};

/// Squared lengths up to this make distances that cannot overflow: |a - b|² <= (|a| + |b|)².
const MAX_SQUARE: f32 = f32::MAX / 4.0;

/// Rows of f32 in a region.
#[derive(Debug)]
pub struct F32Rows {
    region: Arc<Region>,
    fields: Fields,
    kernels: &'static Kernels,
    layout: RowsLayout,
    metric: Metric,
    dim: usize,
    capacity: u32,
    sealed: bool,
    pair: u64,
    appender: Option<Mutex<()>>,
}

/// A query made ready for [`F32Rows`]: padded, aligned, and of length one under cosine.
#[derive(Debug, Default, Clone)]
pub struct F32Query {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([f32; LINE]);

impl F32Query {
    fn fill(&mut self, stride_floats: usize, values: impl Iterator<Item = f32>) {
        self.lines.clear();
        self.lines.resize(stride_floats / LINE, Line([0.0; LINE]));
        for (slot, value) in self.lines.iter_mut().flat_map(|l| l.0.iter_mut()).zip(values) {
            *slot = value;
        }
    }
}

impl F32Rows {
    /// Bytes that a region needs for `capacity` rows of `dim` floats.
    ///
    /// # Errors
    /// Dimensions other than 1 to 262,144, a capacity of 0 or over 2^31 - 1, or a size that cannot be addressed.
    pub fn bytes_needed(dim: usize, capacity: u32) -> Result<usize, CreateError> {
        Ok(Self::layout(dim, capacity)?.end)
    }

    fn layout(dim: usize, capacity: u32) -> Result<RowsLayout, CreateError> {
        if dim == 0 || dim > MAX_DIM {
            return Err(CreateError::Parameter { what: "the dimension", got: dim as u64, min: 1, max: MAX_DIM as u64 });
        }
        let bad = CreateError::Parameter { what: "the capacity", got: capacity.into(), min: 1, max: MAX_ROWS.into() };
        if capacity == 0 || capacity > MAX_ROWS {
            return Err(bad);
        }
        RowsLayout::of(dim, capacity).ok_or(bad)
    }

    /// Lays out room for `capacity` rows of `dim` floats in a zeroed region that this process writes. Memory of a shared
    /// region is committed as rows come.
    ///
    /// # Errors
    /// Parameters out of range, a region that is too small, read-only or in use, no memory.
    pub fn create(region: Arc<Region>, metric: Metric, dim: usize, capacity: u32) -> Result<F32Rows, CreateError> {
        let kernels = kernel::select().map_err(CreateError::Isa)?;
        let layout = Self::layout(dim, capacity)?;
        let fields = format::claim(&region, layout.end, layout.rows)?;
        write_header(&fields, &layout, metric, dim, capacity);
        fields.long(at::MAGIC).store(u64::from_ne_bytes(ROWS_MAGIC), Ordering::Release);
        let appender = Some(Mutex::new(()));
        Ok(F32Rows { region, fields, kernels, layout, metric, dim, capacity, sealed: false, pair: 0, appender })
    }

    /// Opens rows for reading: shared memory that another process appends to, or a sealed file. Only the header is read.
    ///
    /// # Errors
    /// Anything in the header that cannot be, with what was found and what was expected.
    pub fn open(region: Arc<Region>) -> Result<F32Rows, OpenError> {
        const WHAT: &str = "rows";
        let kernels = kernel::select().map_err(OpenError::Isa)?;
        let common = format::open_common(&region, ROWS_MAGIC, WHAT)?;
        let fields = common.fields.clone();
        format::expect(WHAT, "element type", fields.u32(at::ELEMENT).into(), ELEMENT_F32.into())?;
        let code = fields.u32(at::METRIC);
        let metric = Metric::from_code(code).ok_or_else(|| OpenError::Field {
            what: WHAT,
            field: "metric",
            got: code.into(),
            expected: "1 (L2), 2 (cosine) or 3 (inner product)".into(),
        })?;
        let dim = fields.u32(at::DIM) as usize;
        if dim == 0 || dim > MAX_DIM {
            let expected = format!("1 to {MAX_DIM}");
            return Err(OpenError::Field { what: WHAT, field: "dimension", got: dim as u64, expected });
        }
        let capacity = fields.u32(at::CAPACITY);
        if capacity > MAX_ROWS {
            let expected = format!("at most {MAX_ROWS}");
            return Err(OpenError::Field { what: WHAT, field: "capacity", got: capacity.into(), expected });
        }
        let layout = RowsLayout::of(dim, capacity);
        format::check_length(&common, &region, layout.map(|l| l.end), WHAT)?;
        let Some(layout) = layout else {
            return Err(OpenError::Length { what: WHAT, got: region.capacity() as u64, expected: u64::MAX });
        };
        format::expect(WHAT, "stride", fields.u32(at::STRIDE).into(), layout.stride as u64)?;
        format::expect(WHAT, "offset of the norms", fields.u64(at::NORMS), layout.norms as u64)?;
        format::expect(WHAT, "offset of the rows", fields.u64(at::ROWS), layout.rows as u64)?;
        if common.sealed {
            format::expect(WHAT, "length in rows", fields.u32(at::LEN).into(), capacity.into())?;
        }
        let (sealed, pair) = (common.sealed, common.pair);
        Ok(F32Rows { region, fields, kernels, layout, metric, dim, capacity, sealed, pair, appender: None })
    }

    /// Rows there is room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Whether this is a sealed file, which never changes.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The Euclidean length that row `id` had when it was appended; 0 for an unknown row.
    pub fn norm(&self, id: u32) -> f32 {
        if id >= self.len() {
            return 0.0;
        }
        // SAFETY: id < len <= capacity, so the norm lies in its section, was written before `len` covered it and is not
        // written again.
        unsafe { *self.norms().add(id as usize) }
    }

    pub(crate) fn pair(&self) -> u64 {
        self.pair
    }

    /// Bytes of row `id`, padding included, as they are stored. `id < len`.
    pub(crate) fn stored(&self, id: u32) -> &[f32] {
        assert!(id < self.len());
        // SAFETY: id < len <= capacity: inside the section, written before and never again.
        unsafe { std::slice::from_raw_parts(self.row(id), self.layout.stride / 4) }
    }

    fn norms(&self) -> *const f32 {
        self.region.as_ptr().wrapping_add(self.layout.norms).cast()
    }

    fn base(&self) -> *const f32 {
        self.region.as_ptr().wrapping_add(self.layout.rows).cast()
    }

    fn row(&self, id: u32) -> *const f32 {
        self.base().wrapping_add(id as usize * (self.layout.stride / 4))
    }

    /// Length and squared length of a vector that may be compared here.
    fn measure(&self, raw: &[f32]) -> Result<f32, VectorError> {
        if raw.len() != self.dim {
            return Err(VectorError::Dimension { got: raw.len(), expected: self.dim });
        }
        let square = self.kernels.dot(raw, raw);
        // A NaN or infinity anywhere makes the sum one; tiny sums may have lost their digits.
        if square <= MAX_SQUARE && square > 1e-20 {
            return Ok(square.sqrt());
        }
        if let Some((at, value)) = raw.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(VectorError::NotFinite { at, value: *value });
        }
        let norm = raw.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let limit = match self.metric {
            Metric::Cosine => f64::from(f32::MAX),
            Metric::L2 | Metric::InnerProduct => f64::from(MAX_SQUARE).sqrt(),
        };
        if norm > limit {
            return Err(VectorError::TooLong { norm });
        }
        Ok(norm as f32)
    }

    fn user_order(&self, out: &mut [f32]) {
        match self.metric {
            Metric::L2 => {}
            Metric::Cosine => out.iter_mut().for_each(|d| *d = 1.0 - *d),
            Metric::InnerProduct => out.iter_mut().for_each(|d| *d = -*d),
        }
    }
}

/// Fills a header in; the magic comes last, by the caller.
fn write_header(fields: &Fields, layout: &RowsLayout, metric: Metric, dim: usize, capacity: u32) {
    let word = |at: usize, value: u32| fields.word(at).store(value, Ordering::Relaxed);
    let long = |at: usize, value: usize| fields.long(at).store(value as u64, Ordering::Relaxed);
    long(at::LENGTH, layout.end);
    word(at::CHUNK, format::CHUNK as u32);
    word(at::ELEMENT, ELEMENT_F32);
    word(at::METRIC, metric.code());
    word(at::DIM, dim as u32);
    word(at::STRIDE, layout.stride as u32);
    word(at::CAPACITY, capacity);
    long(at::NORMS, layout.norms);
    long(at::ROWS, layout.rows);
}

impl VectorStorage for F32Rows {
    type Query = F32Query;

    fn metric(&self) -> Metric {
        self.metric
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> u32 {
        // Another process wrote the number: never beyond what was checked against the region.
        self.fields.word(at::LEN).load(Ordering::Acquire).min(self.capacity)
    }

    fn prepare(&self, raw: &[f32], query: &mut F32Query) -> Result<(), VectorError> {
        let norm = self.measure(raw)?;
        // A query without direction is at distance 1 from every row under cosine.
        let scale = if self.metric != Metric::Cosine || norm == 0.0 { 1.0 } else { 1.0 / f64::from(norm) };
        let scaled = raw.iter().map(|x| if scale == 1.0 { *x } else { (f64::from(*x) * scale) as f32 });
        query.fill(self.layout.stride / 4, scaled);
        Ok(())
    }

    fn prepare_row(&self, id: u32, query: &mut F32Query) {
        query.fill(self.layout.stride / 4, self.stored(id).iter().copied());
    }

    fn distances(&self, query: &F32Query, ids: &[u32], out: &mut [f32]) {
        let stride = self.layout.stride / 4;
        assert!(ids.len() == out.len() && query.lines.len() * LINE == stride);
        assert!(ids.iter().fold(0, |max, id| (*id).max(max)) < self.len() || ids.is_empty());
        let kernel = if self.metric == Metric::L2 { self.kernels.rows_l2 } else { self.kernels.rows_dot };
        // SAFETY: all ids are below the acquired length and so below the capacity: every row lies in the section and is not
        // written any more; section and stride are multiples of 64 bytes from a page boundary, and
        // the query is aligned and as long by its type and the check above. The table exists only where it can run.
        unsafe { kernel(query.lines.as_ptr().cast(), self.base(), stride, ids, out) };
        self.user_order(out);
    }

    fn distance_between(&self, a: u32, b: u32) -> f32 {
        assert!(a.max(b) < self.len());
        let kernel = if self.metric == Metric::L2 { self.kernels.pair_l2 } else { self.kernels.pair_dot };
        // SAFETY: as in `distances`.
        let mut distance = [unsafe { kernel(self.row(a), self.row(b), self.layout.stride / 4) }];
        self.user_order(&mut distance);
        distance[0]
    }

    fn digest(&self, id: u32) -> u64 {
        // Four sums, so that no multiplication waits for the one before; zeros of either sign are one number.
        let mut sums = [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];
        let bits = |x: f32| u64::from((x + 0.0).to_bits());
        for part in self.stored(id).chunks_exact(8) {
            for (sum, pair) in sums.iter_mut().zip(part.chunks_exact(2)) {
                *sum = (*sum ^ (bits(pair[0]) << 32 | bits(pair[1]))).wrapping_mul(0xff51_afd7_ed55_8ccd);
                *sum ^= *sum >> 32;
            }
        }
        sums.iter().fold(0, |all: u64, sum| (all.rotate_left(23) ^ sum).wrapping_mul(0xc4ce_b9fe_1a85_ec53))
    }

    fn same(&self, a: u32, b: u32) -> bool {
        a == b || self.stored(a) == self.stored(b)
    }

    fn read(&self, id: u32, out: &mut [f32]) {
        let scale = if self.metric == Metric::Cosine { self.norm(id) } else { 1.0 };
        for (out, x) in out.iter_mut().zip(self.stored(id)) {
            *out = x * scale;
        }
    }

    fn prefetch(&self, id: u32) {
        prefetch_line(self.row(id).cast());
    }
}

impl AppendVectors for F32Rows {
    fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
        let Some(appender) = &self.appender else { return Err(PushError::ReadOnly) };
        let _one = appender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(start) = self.region.as_mut_ptr() else { return Err(PushError::ReadOnly) };
        let norm = self.measure(raw)?;
        if self.metric == Metric::Cosine && norm < f32::MIN_POSITIVE {
            return Err(PushError::Vector(VectorError::Zero));
        }
        let id = self.len();
        if id >= self.capacity {
            return Err(PushError::Full { capacity: self.capacity });
        }
        let offset = self.layout.rows + id as usize * self.layout.stride;
        self.region.commit(offset + self.layout.stride).map_err(PushError::Memory)?;
        let scale = if self.metric == Metric::Cosine { 1.0 / f64::from(norm) } else { 1.0 };
        // SAFETY: id < capacity, so row and norm lie in their sections of the region, which this process writes; no reader
        // looks at them before `len` covers them, and the lock keeps other appenders out. The padding is still zero.
        unsafe {
            let row = start.add(offset).cast::<f32>();
            for (i, x) in raw.iter().enumerate() {
                *row.add(i) = if scale == 1.0 { *x } else { (f64::from(*x) * scale) as f32 };
            }
            *start.add(self.layout.norms).cast::<f32>().add(id as usize) = norm;
        }
        self.fields.word(at::LEN).store(id + 1, Ordering::Release);
        Ok(id)
    }
}

impl Rerank for F32Rows {
    fn rerank(&self, query: &[f32], found: &mut [Neighbour]) -> Result<(), RerankError> {
        let mut prepared = F32Query::default();
        self.prepare(query, &mut prepared).map_err(RerankError::Vector)?;
        let len = self.len();
        for n in found.iter_mut() {
            if n.id >= len {
                return Err(RerankError::Unknown { id: n.id, len });
            }
            let mut distance = [0.0];
            self.distances(&prepared, &[n.id], &mut distance);
            n.distance = self.metric.to_user(distance[0]);
        }
        found.sort_unstable();
        Ok(())
    }
}
