//! Rows in a region: private memory, shared memory that grows, or a sealed file. The bytes are drawn in `format`.
//!
//! Rows are padded with zeros to a multiple of 64 bytes (or 128) and aligned to 64, so that kernels need no tails. Under cosine a
//! row is stored normalised, its length beside it, so that the distance is one inner product and `read` gives back the
//! original up to rounding.
//!
//! # Invariants
//! * A row's bytes and its side are written before the length is released, and never again.
//! * `stride * capacity` was checked against the region once; every access is below `capacity`.
//! * Only the value made by `create` appends, under its lock; whoever `open`s reads.

mod encoded;

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use kriya_region::Region;

use super::encoding::{self, Base, Encoding, F32, Row};
use super::{AppendVectors, Rerank, VectorStorage};
use crate::error::{CreateError, OpenError, PushError, RerankError, VectorError};
use crate::format::{self, Fields, MAX_ROWS, ROWS_MAGIC, RowsLayout, at};
use crate::kernel::{self, Kernels, prefetch_line};
use crate::metric::{Metric, Neighbour};

/// Squared lengths up to this make distances that cannot overflow: |a - b|² <= (|a| + |b|)².
const MAX_SQUARE: f32 = f32::MAX / 4.0;

const WHAT: &str = "file of rows";

/// Rows in a region, encoded as `E` says.
#[derive(Debug)]
pub struct Rows<E: Encoding = F32> {
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
    encoding: PhantomData<fn() -> E>,
}

/// Rows of f32.
pub type F32Rows = Rows<F32>;

impl<E: Encoding> Rows<E> {
    /// Bytes that a region needs for `capacity` rows of `dim` components.
    ///
    /// # Errors
    /// Dimensions other than 1 to 262,144 (65,536 for codes), a capacity of 0 or over 2^31 - 1, or a size that cannot be
    /// addressed.
    pub fn bytes_needed(dim: usize, capacity: u32) -> Result<usize, CreateError> {
        Ok(Self::layout(dim, capacity)?.end)
    }

    fn layout(dim: usize, capacity: u32) -> Result<RowsLayout, CreateError> {
        if dim == 0 || dim > E::MAX_DIM {
            let max = E::MAX_DIM as u64;
            return Err(CreateError::Parameter { what: "the dimension", got: dim as u64, min: 1, max });
        }
        let bad = CreateError::Parameter { what: "the capacity", got: capacity.into(), min: 1, max: MAX_ROWS.into() };
        if capacity == 0 || capacity > MAX_ROWS {
            return Err(bad);
        }
        Self::layout_of(dim, capacity).ok_or(bad)
    }

    /// Without looking at the limits.
    pub(crate) fn layout_of(dim: usize, capacity: u32) -> Option<RowsLayout> {
        let elements = dim.checked_next_multiple_of(E::PADDED_TO / size_of::<E::Element>())?;
        RowsLayout::of(elements, capacity, size_of::<E::Element>(), size_of::<E::Side>())
    }

    /// Lays out room for `capacity` rows of `dim` components in a zeroed region that this process writes. Memory of a
    /// shared region is committed as rows come.
    ///
    /// # Errors
    /// Parameters out of range, a region that is too small, read-only or in use, no memory.
    pub fn create(region: Arc<Region>, metric: Metric, dim: usize, capacity: u32) -> Result<Rows<E>, CreateError> {
        let kernels = kernel::select().map_err(CreateError::Isa)?;
        let layout = Self::layout(dim, capacity)?;
        let fields = format::claim(&region, layout.end, layout.rows)?;
        write_header(&fields, &layout, E::CODE, metric, dim, capacity);
        fields.long(at::MAGIC).store(u64::from_ne_bytes(ROWS_MAGIC), Ordering::Release);
        let (appender, encoding) = (Some(Mutex::new(())), PhantomData);
        let (sealed, pair) = (false, 0);
        Ok(Rows { region, fields, kernels, layout, metric, dim, capacity, sealed, pair, appender, encoding })
    }

    /// Opens rows for reading: shared memory that another process appends to, or a sealed file. Only the header is read.
    ///
    /// # Errors
    /// Anything in the header that cannot be, with what was found and what was expected.
    pub fn open(region: Arc<Region>) -> Result<Rows<E>, OpenError> {
        let kernels = kernel::select().map_err(OpenError::Isa)?;
        let common = format::open_common(&region, ROWS_MAGIC, WHAT)?;
        let fields = common.fields.clone();
        format::expect(WHAT, "element type", fields.u32(at::ELEMENT).into(), E::CODE.into())?;
        let code = fields.u32(at::METRIC);
        let metric = Metric::from_code(code).ok_or_else(|| OpenError::Field {
            what: WHAT,
            field: "metric",
            got: code.into(),
            expected: "1 (L2), 2 (cosine) or 3 (inner product)".into(),
        })?;
        let dim = fields.u32(at::DIM) as usize;
        if dim == 0 || dim > E::MAX_DIM {
            let expected = format!("1 to {}", E::MAX_DIM);
            return Err(OpenError::Field { what: WHAT, field: "dimension", got: dim as u64, expected });
        }
        let capacity = fields.u32(at::CAPACITY);
        if capacity > MAX_ROWS {
            let expected = format!("at most {MAX_ROWS}");
            return Err(OpenError::Field { what: WHAT, field: "capacity", got: capacity.into(), expected });
        }
        let layout = Self::layout_of(dim, capacity);
        format::check_length(&common, &region, layout.map(|l| l.end), WHAT)?;
        let Some(layout) = layout else {
            return Err(OpenError::Length { what: WHAT, got: region.capacity() as u64, expected: u64::MAX });
        };
        format::expect(WHAT, "stride", fields.u32(at::STRIDE).into(), layout.stride as u64)?;
        format::expect(WHAT, "offset of the sides", fields.u64(at::SIDES), layout.sides as u64)?;
        format::expect(WHAT, "offset of the rows", fields.u64(at::ROWS), layout.rows as u64)?;
        if common.sealed {
            format::expect(WHAT, "length in rows", fields.u32(at::LEN).into(), capacity.into())?;
        }
        let (sealed, pair, encoding) = (common.sealed, common.pair, PhantomData);
        Ok(Rows { region, fields, kernels, layout, metric, dim, capacity, sealed, pair, appender: None, encoding })
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
        if id < self.len() { E::norm(self.row(id).side) } else { 0.0 }
    }

    pub(crate) fn pair(&self) -> u64 {
        self.pair
    }

    /// Row `id`, padding included, as it is stored. `id < len`.
    fn row(&self, id: u32) -> Row<'_, E> {
        assert!(id < self.len());
        let (base, id) = (self.base(), id as usize);
        // SAFETY: id < len <= capacity: inside the sections, written before and never again.
        unsafe {
            let elements = std::slice::from_raw_parts(base.rows.add(id * base.stride), base.stride);
            Row { elements, side: &*base.sides.add(id) }
        }
    }

    /// A copy on the heap, with room for `capacity`, of the rows named, in their order. All are below `len`.
    pub(crate) fn in_order(&self, order: &[u32], capacity: u32) -> Result<Rows<E>, CreateError> {
        assert!(order.len() <= capacity as usize);
        let region = Region::heap(Self::bytes_needed(self.dim, capacity)?).map_err(CreateError::Memory)?;
        let copy = Self::create(Arc::new(region), self.metric, self.dim, capacity)?;
        let base = copy.base();
        for (place, id) in order.iter().enumerate() {
            let row = self.row(*id);
            // SAFETY: place < capacity, in sections of memory that only this function has; both have rows of one length.
            unsafe {
                let to = base.rows.cast_mut().add(place * base.stride);
                std::ptr::copy_nonoverlapping(row.elements.as_ptr(), to, base.stride);
                base.sides.cast_mut().add(place).write(*row.side);
            }
        }
        copy.fields.word(at::LEN).store(order.len() as u32, Ordering::Release);
        Ok(copy)
    }

    /// Appends a row of other rows as it is stored there. Both have the same metric and dimension, and `id` is below the other's
    /// length.
    pub(crate) fn push_stored(&self, other: &Rows<E>, id: u32) -> Result<u32, PushError> {
        let Some(appender) = &self.appender else { return Err(PushError::ReadOnly) };
        let _one = appender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(start) = self.region.as_mut_ptr() else { return Err(PushError::ReadOnly) };
        let row = other.row(id);
        assert!(self.metric == other.metric && self.dim == other.dim);
        let id = self.len();
        if id >= self.capacity {
            return Err(PushError::Full { capacity: self.capacity });
        }
        let offset = self.layout.rows + id as usize * self.layout.stride;
        self.region.commit(offset + self.layout.stride).map_err(PushError::Memory)?;
        // SAFETY: as in `push`; one dimension and one encoding make one stride, and regions do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(row.elements.as_ptr(), start.add(offset).cast(), row.elements.len());
            start.add(self.layout.sides).cast::<E::Side>().add(id as usize).write(*row.side);
        }
        self.fields.word(at::LEN).store(id + 1, Ordering::Release);
        Ok(id)
    }

    /// The bytes of row `id` and of its side. `id < len`.
    pub(crate) fn stored(&self, id: u32) -> (&[u8], &[u8]) {
        let row = self.row(id);
        // SAFETY: elements and sides are numbers without padding between them.
        unsafe {
            let elements = std::slice::from_raw_parts(row.elements.as_ptr().cast(), self.layout.stride);
            (elements, std::slice::from_raw_parts(std::ptr::from_ref(row.side).cast(), size_of::<E::Side>()))
        }
    }

    fn base(&self) -> Base<E> {
        let start = self.region.as_ptr();
        Base {
            rows: start.wrapping_add(self.layout.rows).cast(),
            sides: start.wrapping_add(self.layout.sides).cast(),
            stride: self.layout.stride / size_of::<E::Element>(),
        }
    }

    /// That all ids are below the acquired length and so below the capacity: every row lies in the section and is not written
    /// any more. And that the query is for rows like these.
    #[inline]
    fn check_ids(&self, query: &E::Query, base: &Base<E>, ids: &[u32], out: &[f32]) {
        assert!(ids.len() == out.len() && E::fits(query, base.stride));
        assert!(ids.iter().fold(0, |max, id| (*id).max(max)) < self.len() || ids.is_empty());
    }

    /// Length of a vector that may be compared here.
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

    /// What a vector's components are to be multiplied by. One without direction stays as it is.
    fn scale(&self, norm: f32) -> f64 {
        if self.metric == Metric::Cosine && norm > 0.0 { 1.0 / f64::from(norm) } else { 1.0 }
    }
}

/// Fills a header in; the magic comes last, by the caller.
fn write_header(fields: &Fields, layout: &RowsLayout, element: u32, metric: Metric, dim: usize, capacity: u32) {
    let word = |at: usize, value: u32| fields.word(at).store(value, Ordering::Relaxed);
    let long = |at: usize, value: usize| fields.long(at).store(value as u64, Ordering::Relaxed);
    long(at::LENGTH, layout.end);
    word(at::CHUNK, format::CHUNK as u32);
    word(at::ELEMENT, element);
    word(at::METRIC, metric.code());
    word(at::DIM, dim as u32);
    word(at::STRIDE, layout.stride as u32);
    word(at::CAPACITY, capacity);
    long(at::SIDES, layout.sides);
    long(at::ROWS, layout.rows);
}

impl<E: Encoding> VectorStorage for Rows<E> {
    type Query = E::Query;

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

    fn prepare(&self, raw: &[f32], query: &mut E::Query) -> Result<(), VectorError> {
        let scale = self.scale(self.measure(raw)?);
        E::prepare(self.metric, raw, scale, self.layout.stride / size_of::<E::Element>(), query);
        Ok(())
    }

    fn prepare_row(&self, id: u32, query: &mut E::Query) {
        E::prepare_row(&self.row(id), query);
    }

    fn distances(&self, query: &E::Query, ids: &[u32], out: &mut [f32]) {
        let base = self.base();
        self.check_ids(query, &base, ids, out);
        // SAFETY: `check_ids`; section and stride are multiples of 64 bytes from a page boundary. The table exists only where it
        // can run.
        unsafe { E::distances(self.kernels, self.metric, query, &base, ids, out) };
        encoding::user_order(self.metric, out);
    }

    fn is_coarse(&self) -> bool {
        E::COARSE
    }

    fn exact_distances(&self, query: &E::Query, ids: &[u32], out: &mut [f32]) {
        let base = self.base();
        self.check_ids(query, &base, ids, out);
        // SAFETY: as in `distances`.
        unsafe { E::exact_distances(self.kernels, self.metric, query, &base, ids, out) };
        encoding::user_order(self.metric, out);
    }

    fn distance_between(&self, a: u32, b: u32) -> f32 {
        assert!(a.max(b) < self.len());
        // SAFETY: as in `distances`.
        let mut distance = [unsafe { E::between(self.kernels, self.metric, &self.base(), a, b) }];
        encoding::user_order(self.metric, &mut distance);
        distance[0]
    }

    fn digest(&self, id: u32) -> u64 {
        // Four sums, so that no multiplication waits for the one before.
        let mut sums = [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];
        let mix = |sum: u64, word: u64| {
            let product = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            product ^ product >> 32
        };
        let (words, _) = self.stored(id).0.as_chunks::<8>();
        for part in words.chunks_exact(4) {
            for (sum, word) in sums.iter_mut().zip(part) {
                *sum = mix(*sum, u64::from_ne_bytes(*word));
            }
        }
        let sum = sums.iter().fold(0, |all: u64, sum| (all.rotate_left(23) ^ sum).wrapping_mul(0xc4ce_b9fe_1a85_ec53));
        E::side_key(self.row(id).side).iter().fold(sum, |sum, word| mix(sum, u64::from(*word)))
    }

    fn same(&self, a: u32, b: u32) -> bool {
        let (x, y) = (self.row(a).side, self.row(b).side);
        a == b || (E::side_key(x) == E::side_key(y) && self.stored(a).0 == self.stored(b).0)
    }

    fn read(&self, id: u32, out: &mut [f32]) {
        let row = self.row(id);
        let scale = if self.metric == Metric::Cosine { E::norm(row.side) } else { 1.0 };
        for (at, out) in out.iter_mut().enumerate().take(self.dim) {
            *out = E::decode(&row, at) * scale;
        }
    }

    fn row_bytes(&self) -> usize {
        self.layout.stride
    }

    fn prefetch(&self, id: u32) {
        prefetch_line(
            self.base().rows.wrapping_add(id as usize * (self.layout.stride / size_of::<E::Element>())).cast(),
        );
    }
}

impl<E: Encoding> AppendVectors for Rows<E> {
    fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
        let Some(appender) = &self.appender else { return Err(PushError::ReadOnly) };
        let _one = appender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(start) = self.region.as_mut_ptr() else { return Err(PushError::ReadOnly) };
        let scale = self.check(raw)?;
        let id = self.len();
        if id >= self.capacity {
            return Err(PushError::Full { capacity: self.capacity });
        }
        let offset = self.layout.rows + id as usize * self.layout.stride;
        self.region.commit(offset + self.layout.stride).map_err(PushError::Memory)?;
        // SAFETY: id < capacity, so row and side lie in their sections of the region, which this process writes; no reader
        // looks at them before `len` covers them, and the lock keeps other appenders out. They are still zero.
        unsafe {
            let stride = self.layout.stride / size_of::<E::Element>();
            let row = std::slice::from_raw_parts_mut(start.add(offset).cast::<E::Element>(), stride);
            let side = E::encode(self.metric, raw, scale.norm, scale.by, row);
            start.add(self.layout.sides).cast::<E::Side>().add(id as usize).write(side);
        }
        self.fields.word(at::LEN).store(id + 1, Ordering::Release);
        Ok(id)
    }
}

impl<E: Encoding> Rerank for Rows<E> {
    fn rerank(&self, query: &[f32], found: &mut [Neighbour]) -> Result<(), RerankError> {
        let mut prepared = E::Query::default();
        self.prepare(query, &mut prepared).map_err(RerankError::Vector)?;
        let len = self.len();
        if let Some(unknown) = found.iter().find(|n| n.id >= len) {
            return Err(RerankError::Unknown { id: unknown.id, len });
        }
        let ids: Vec<u32> = found.iter().map(|n| n.id).collect();
        let mut distances = vec![0.0; ids.len()];
        self.exact_distances(&prepared, &ids, &mut distances);
        for (n, distance) in found.iter_mut().zip(distances) {
            n.distance = self.metric.to_user(distance);
        }
        found.sort_unstable();
        Ok(())
    }
}
