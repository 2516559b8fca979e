//! The thread that deletes from the bucket what nobody can need any more: objects of the store, and those of index segments.
//!
//! Manifests that were the newest lately stay with everything they name, for a base backup goes on with the one that was
//! the newest when it was made. A segment's objects stay as long as a manifest may name them: one that is found in nobody's
//! use is noted with the number of the newest manifest, and goes when all up to two behind it are gone; the next one may
//! be on its way and older than the finding, and so may the one after it, but none later. The notes survive the worker.
//!
//! Nothing here is urgent: what fails is tried again the next time.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use lsmstore::{GcError, GcOptions, GcReport};

use crate::catalogue::SegmentRecord;
use crate::keys;
use crate::worker::engine::Engine;
use crate::worker::host::Level;

/// Manifests behind the newest that may be older than what is found now.
const ON_THEIR_WAY: u64 = 2;
/// The notes, in the worker's folder.
const NOTES: &str = "UNUSED-SEGMENTS";

/// Collects garbage until the worker ends.
pub(crate) fn collect_forever(engine: &Engine) {
    let mut notes = Notes::read(engine);
    let (mut failing, mut quiet) = (false, None);
    while engine.signals.working() {
        engine.signals.collecting.wait(engine.config.collect_every);
        // A store that nobody writes to and that holds no garbage is asked nothing.
        if !engine.signals.working() || quiet == Some(engine.store.manifest().number) {
            continue;
        }
        let options = GcOptions { keep_for: Some(engine.live.asked().retention), ..GcOptions::default() };
        let Some(collected) = engine.unless_ending(engine.store.collect_garbage(options)) else { break };
        let done = match collected {
            Ok(report) => collect_segments(engine, &mut notes, &report).map(|segments| (report, segments)),
            Err(GcError::Unusable(_)) => {
                engine.signals.ending.wake();
                break;
            }
            Err(error) => Err(error.to_string()),
        };
        match done {
            Ok((report, segments)) => {
                failing = false;
                let settled = report.settled && segments.deleted == 0;
                quiet = settled.then(|| engine.store.manifest().number);
                let (objects, bytes) = (report.deleted.len() as u64, report.deleted_bytes());
                if objects + segments.deleted > 0 {
                    let message = format!(
                        "{} objects with {} MB that nothing needs any more were deleted from the bucket",
                        objects + segments.deleted,
                        (bytes + segments.bytes) >> 20
                    );
                    engine.host.report(Level::Log, &message);
                }
            }
            Err(_) if !engine.signals.working() => break,
            // An object store that is away is told elsewhere, again and again.
            Err(why) if !std::mem::replace(&mut failing, true) => {
                let message = format!("deleting what nothing needs any more from the bucket failed: {why}");
                engine.host.report(Level::Warning, &message);
            }
            Err(_) => {}
        }
    }
}

/// What became of the objects of segments that are in nobody's use.
#[derive(Debug, Default)]
struct Segments {
    deleted: u64,
    bytes: u64,
}

/// Deletes objects of segments that no manifest can name any more, after a pass over the store's own.
fn collect_segments(engine: &Engine, notes: &mut Notes, report: &GcReport) -> Result<Segments, String> {
    let list = engine.unless_ending(engine.segments.objects_there()).ok_or("the worker ends")?;
    let there: HashMap<String, u64> = list.map_err(|error| error.to_string())?.into_iter().collect();
    // Whoever makes one holds it until its record can be read; so it is in use, or named by a view that is taken later.
    let mut unused: HashSet<&String> = there.keys().filter(|name| !engine.segments.uses(name)).collect();
    for name in named(engine)? {
        unused.remove(&name);
    }
    let newest = engine.store.manifest().number;
    notes.found(&unused.iter().map(|name| (**name).clone()).collect(), newest);
    let mut done = Segments::default();
    let kept = |since: u64| {
        let until = since + ON_THEIR_WAY;
        report.boundary <= until || report.checkpoints.iter().any(|checkpoint| checkpoint.manifest <= until)
    };
    let mut doomed = Vec::new();
    for name in unused {
        match notes.since(name) {
            Some(since) if !kept(since) => {
                done.deleted += 1;
                done.bytes += there.get(name).copied().unwrap_or(0);
                doomed.push(name.clone());
            }
            _ => {}
        }
    }
    notes.write(engine).map_err(|error| error.to_string())?;
    if !doomed.is_empty() {
        let deleted = engine.unless_ending(engine.segments.delete_objects(&doomed)).ok_or("the worker ends")?;
        deleted.map_err(|error| error.to_string())?;
    }
    Ok(done)
}

/// The objects that segments are named by.
fn named(engine: &Engine) -> Result<HashSet<String>, String> {
    let view = engine.store.view().map_err(|error| error.to_string())?;
    let mut named = HashSet::new();
    let mut scan = view.scan_prefix(&[keys::SEGMENT], view.read_sequence()).map_err(|error| error.to_string())?;
    while let Some((_, value)) = scan.next().map_err(|error| error.to_string())? {
        let record = SegmentRecord::parse(value).map_err(|error| error.to_string())?;
        named.extend([record.rows_object, record.graph_object]);
    }
    Ok(named)
}

/// Since which manifest objects of segments are in nobody's use.
struct Notes {
    path: PathBuf,
    since: HashMap<String, u64>,
    written: bool,
}

impl Notes {
    /// Those of an earlier worker of this store. Without them everything is found anew.
    fn read(engine: &Engine) -> Notes {
        let path = engine.config.store_dir().join(NOTES);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines();
        let ours = lines.next() == Some(&engine.store.store_id().to_string());
        let line = |line: &str| {
            let (name, since) = line.split_once(' ')?;
            Some((name.to_owned(), since.parse().ok()?))
        };
        let since = if ours { lines.filter_map(line).collect() } else { HashMap::new() };
        Notes { path, since, written: true }
    }

    /// Exactly these are in nobody's use now.
    fn found(&mut self, unused: &HashSet<String>, newest: u64) {
        let before = self.since.len();
        self.since.retain(|name, _| unused.contains(name));
        self.written &= self.since.len() == before;
        for name in unused {
            if !self.since.contains_key(name) {
                self.since.insert(name.clone(), newest);
                self.written = false;
            }
        }
    }

    fn since(&self, name: &str) -> Option<u64> {
        self.since.get(name).copied()
    }

    /// What is lost of it is found again.
    fn write(&mut self, engine: &Engine) -> std::io::Result<()> {
        if self.written {
            return Ok(());
        }
        let mut text = format!("{}\n", engine.store.store_id());
        for (name, since) in &self.since {
            text.push_str(&format!("{name} {since}\n"));
        }
        let aside = self.path.with_extension("tmp");
        // Half a line would be a smaller number, and what is kept would go too early.
        let mut file = fs::File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        self.written = true;
        Ok(())
    }
}
