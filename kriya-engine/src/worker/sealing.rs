//! Background work on indexes: linking pending rows, turning full active segments into sealed ones, merging those.
//!
//! A sealed segment replaces an active one in this order: files, objects, record in the store, list of segments. The
//! record is not logged: until it is durable the entries themselves are, and a restart makes an active segment of them
//! again. Entries stay in the store; deletions stay too, for readers of older views.
//!
//! All of it is in vain if the object store does not take the objects. So nothing is begun while that is known to be
//! away, and after a failure no sooner than the attempt took.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lsmstore::{Batch, fail};
use vecindex::{BuildContext, F32Rows, Hnsw};

use crate::keys::{self, Counter};
use crate::worker::active::{Active, private};
use crate::worker::build::{copy, link_all};
use crate::worker::engine::Engine;
use crate::worker::indexes::Index;
use crate::worker::publishing::Failing;
use crate::worker::segments::Sealed;

/// Rows from which an active segment that is not full is worth sealing when a flush is asked for.
const WORTH_SEALING: u32 = 10_000;
/// Sealed segments at rest.
const AT_REST: usize = 2;
/// A segment is merged into its elder if that is at most so many times larger.
const RATIO: u64 = 8;
const LINK_ROUND: u32 = 64;
const IDLE: Duration = Duration::from_secs(5);
/// Pause after a failure, doubled up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const ENDED: &str = "the worker ended meanwhile";

/// Whether sealing goes on: a stop does not wait for it, let alone for an object store that is away.
type GoesOn<'a> = &'a (dyn Fn() -> bool + Sync);

/// Links pending rows until the worker ends.
pub(crate) fn link_forever(engine: &Engine) {
    let mut context = BuildContext::default();
    while engine.signals.working() {
        let mut linked = 0;
        for index in engine.indexes.all() {
            for active in &index.state().active {
                linked += active.link(LINK_ROUND, &mut context);
            }
        }
        if linked == 0 {
            engine.signals.linking.wait(IDLE);
        }
    }
}

/// Why nothing was sealed.
enum Unsealed {
    /// The object store did not take the objects: nor would it take others.
    Upload(String),
    Other(String),
}

impl From<String> for Unsealed {
    fn from(why: String) -> Unsealed {
        Unsealed::Other(why)
    }
}

impl fmt::Display for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unsealed::Upload(why) | Unsealed::Other(why)) = self;
        f.write_str(why)
    }
}

/// Seals and merges until the worker ends. Failures are reported and tried again later, by the next worker if need be.
pub(crate) fn seal_forever(engine: &Engine) {
    let (mut failing, mut away) = (None, false);
    while engine.signals.working() {
        engine.signals.sealing.wait(IDLE);
        if !engine.signals.working() {
            break;
        }
        let was_away = std::mem::replace(&mut away, engine.signals.failing.load(Ordering::SeqCst));
        if was_away && !away {
            failing = None;
        }
        let put_off = away || failing.as_ref().is_some_and(|failing: &Failing| !failing.left().is_zero());
        // Whoever asks for it has one attempt.
        let early = engine.signals.seal_early.swap(false, Ordering::Relaxed);
        if put_off && !early {
            continue;
        }
        let began = Instant::now();
        match seal_all(engine, early, &|| engine.signals.working()) {
            Ok(()) => failing = None,
            Err(why) => {
                let took = began.elapsed();
                Failing::note(&mut failing, engine, why, (IDLE.max(took), LONGEST_PAUSE.max(took)));
            }
        }
    }
}

/// Seals what is full, and if `early` what is worth it; then merges. Says what failed, if that still matters.
pub(crate) fn seal_all(engine: &Engine, early: bool, goes_on: GoesOn<'_>) -> Result<(), String> {
    let indexes = engine.indexes.all();
    if early {
        indexes.iter().for_each(|index| freeze(index));
    }
    let mut failed = Ok(());
    for index in indexes {
        if let Err(unsealed) = seal_index(engine, &index, goes_on) {
            if !goes_on() {
                return Ok(());
            }
            failed = Err(format!("sealing a segment of index {} failed: {unsealed}", index.id));
            if matches!(unsealed, Unsealed::Upload(_)) {
                // If it is away for tables too, that thread finds out when it is back.
                engine.signals.publishing.wake();
                break;
            }
        }
    }
    failed
}

/// Puts an empty segment behind the last one if that is worth sealing.
fn freeze(index: &Index) {
    let _appending = index.appending();
    let state = index.state();
    let Some(last) = state.active.last().filter(|last| last.hnsw.len() >= WORTH_SEALING) else { return };
    let first = last.hnsw.label(last.hnsw.len() - 1)[0] + 1;
    let capacity = crate::worker::active::capacity(last.hnsw.dim());
    // Without memory for another one this goes on being appended to.
    if let Ok(fresh) = Active::create(index.metric, last.hnsw.dim(), index.params, first, capacity) {
        let fresh = Arc::new(fresh);
        index.change(|state| state.active.push(fresh));
    }
}

fn seal_index(engine: &Engine, index: &Index, goes_on: GoesOn<'_>) -> Result<(), Unsealed> {
    while let [full, next, ..] = &index.state().active[..] {
        let sealed = seal_one(engine, index, &full.hnsw, full.first, next.first, goes_on)?;
        index.change(|state| {
            state.active.retain(|active| !Arc::ptr_eq(active, full));
            state.sealed.extend(sealed);
        });
    }
    // A stop does not wait for merges: the next worker goes on with them.
    while let Some([elder, younger]) = to_merge(index).filter(|_| engine.signals.working()) {
        if !merge(engine, index, &elder, &younger, goes_on)? {
            break;
        }
    }
    Ok(())
}

/// Seals the rows of one active segment that are not deleted; none if all are.
fn seal_one(
    engine: &Engine,
    index: &Index,
    hnsw: &Hnsw<F32Rows>,
    first: u64,
    end: u64,
    goes_on: GoesOn<'_>,
) -> Result<Option<Arc<Sealed>>, Unsealed> {
    let deleted = deletions(engine, index.id)?;
    let all = (0..hnsw.len()).all(|id| !deleted.contains(&hnsw.label(id)[0]));
    if all && link_all(engine, hnsw, |_| goes_on()) {
        return publish(engine, index, hnsw, first..end, &[], goes_on).map(Some);
    }
    let rebuilt = rebuild(engine, index, &[hnsw], &deleted, goes_on)?;
    rebuilt.map(|rebuilt| publish(engine, index, &rebuilt, first..end, &[], goes_on)).transpose()
}

/// The deleted entries of an index.
fn deletions(engine: &Engine, index: u64) -> Result<std::collections::HashSet<u64>, String> {
    let view = engine.store.view().map_err(|error| error.to_string())?;
    let prefix = keys::object_prefix(keys::DELETED, index);
    let mut scan = view.scan_prefix(&prefix, view.read_sequence()).map_err(|error| error.to_string())?;
    let mut deleted = std::collections::HashSet::new();
    while let Some((key, _)) = scan.next().map_err(|error| error.to_string())? {
        deleted.extend(keys::parse_triple(keys::DELETED, key).map(|(_, entry)| entry));
    }
    Ok(deleted)
}

/// A new index of the rows of others that are not deleted, linked; `None` if no row is left.
fn rebuild(
    engine: &Engine,
    index: &Index,
    from: &[&Hnsw<F32Rows>],
    deleted: &std::collections::HashSet<u64>,
    goes_on: GoesOn<'_>,
) -> Result<Option<Hnsw<F32Rows>>, String> {
    if !goes_on() {
        return Err(ENDED.into());
    }
    let rows: u64 = from.iter().map(|hnsw| u64::from(hnsw.len())).sum();
    let (Some(dim), Ok(rows)) = (from.first().map(|hnsw| hnsw.dim()), u32::try_from(rows)) else {
        return Err(format!("{rows} rows are too many for one segment"));
    };
    let rebuilt = private(index.metric, dim, index.params, rows.max(1)).map_err(|error| error.to_string())?;
    for hnsw in from {
        copy(hnsw, &rebuilt, |entry| !deleted.contains(&entry))?;
    }
    if rebuilt.is_empty() {
        return Ok(None);
    }
    if !link_all(engine, &rebuilt, |_| goes_on()) {
        return Err(ENDED.into());
    }
    Ok(Some(rebuilt))
}

/// Writes files and objects of a segment and puts its record into the store, in place of those of `replaced`.
fn publish(
    engine: &Engine,
    index: &Index,
    hnsw: &Hnsw<F32Rows>,
    covers: Range<u64>,
    replaced: &[&Sealed],
    goes_on: GoesOn<'_>,
) -> Result<Arc<Sealed>, Unsealed> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let segment = engine.take(Counter::Segments, index.id, 1).map_err(|error| text(&error))?;
    let files = &engine.segments;
    let written = files.write(index.id, segment, engine.generation(), hnsw).map_err(|error| text(&error))?;
    let mut record = written.record.clone();
    (record.first, record.end) = (covers.start, covers.end);
    record.replaces = replaced.iter().map(|sealed| sealed.segment).collect();
    let uploaded = engine.while_it_may(&goes_on, files.upload(&record)).ok_or_else(|| ENDED.to_owned())?;
    uploaded.map_err(|error| Unsealed::Upload(text(&error)))?;
    fail::point("before-seal-record");
    let mut batch = Batch::new();
    batch.put(&keys::segment(index.id, segment), &record.encode());
    for sealed in replaced {
        batch.delete(&keys::segment(index.id, sealed.segment));
    }
    let opened = engine.runtime.block_on(files.open(segment, record, true)).map_err(|error| text(&error))?;
    engine.apply_patiently(&batch, goes_on).map_err(|error| text(&error))?;
    written.keep();
    fail::point("after-seal-record");
    Ok(Arc::new(opened))
}

/// The two youngest sealed segments, if there are too many or the elder one is not much larger.
fn to_merge(index: &Index) -> Option<[Arc<Sealed>; 2]> {
    let state = index.state();
    let [.., elder, younger] = &state.sealed[..] else { return None };
    let rows = |sealed: &Sealed| u64::from(sealed.record.rows);
    let grown = state.sealed.len() == AT_REST && !younger.record.replaces.is_empty();
    let due = state.sealed.len() > AT_REST || (grown && rows(elder) <= rows(younger) * RATIO);
    due.then(|| [Arc::clone(elder), Arc::clone(younger)])
}

/// Merges two segments; not if nothing would be left: their records keep a restart from making the entries active again.
fn merge(
    engine: &Engine,
    index: &Index,
    elder: &Arc<Sealed>,
    younger: &Arc<Sealed>,
    goes_on: GoesOn<'_>,
) -> Result<bool, Unsealed> {
    let deleted = deletions(engine, index.id)?;
    let Some(rebuilt) = rebuild(engine, index, &[&elder.hnsw, &younger.hnsw], &deleted, goes_on)? else {
        return Ok(false);
    };
    let covers = elder.record.first..younger.record.end;
    let merged = publish(engine, index, &rebuilt, covers, &[elder, younger], goes_on)?;
    index.change(|state| {
        state.sealed.retain(|sealed| !Arc::ptr_eq(sealed, elder) && !Arc::ptr_eq(sealed, younger));
        state.sealed.push(merged);
    });
    elder.retire();
    younger.retire();
    Ok(true)
}
