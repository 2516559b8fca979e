//! What a store must hold: each life of a writer, what was asked of it, what it promised, and what the next life has to
//! find of it.
//!
//! Every batch ends with a put of its writer's own counter. So the content itself tells which batches are in it, and the
//! counter's version the place of the one that was never acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsmstore::{Batch, View};

pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
pub enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Range(Vec<u8>, Vec<u8>),
}

pub fn batch(changes: &[Change]) -> Batch {
    let mut batch = Batch::new();
    for change in changes {
        match change {
            Change::Put(key, value) => batch.put(key, value),
            Change::Delete(key) => batch.delete(key),
            Change::Range(from, to) => batch.delete_range(from, to),
        };
    }
    batch
}

/// A batch that was asked for.
#[derive(Clone, Debug)]
struct Issued {
    changes: Arc<[Change]>,
    /// Its first and last number, once they are known.
    placed: Option<(u64, u64)>,
    /// What it survives by itself, whatever becomes of batches with lower numbers.
    kept: Option<Loss>,
}

/// A batch that is there.
struct Placed {
    writer: u32,
    first: u64,
    issued: Issued,
}

/// Which batches a view must have.
#[derive(Clone, Copy)]
enum Expected {
    /// All that have numbers up to the one that it is seen from, and no others.
    All,
    /// Those up to a number, and those that survive this by themselves. Of each writer all that came before one that is
    /// there.
    Some(u64, Loss),
}

/// What a promise survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Process = 0,
    Machine = 1,
    /// The local disk.
    Disk = 2,
}

/// The counter of a writer.
pub fn counter(writer: u32) -> Vec<u8> {
    format!("c{writer:05}").into_bytes()
}

/// From one opening of the store to its end.
#[derive(Debug, Default)]
pub struct Life {
    pub number: usize,
    pub machine: usize,
    /// What was asked for, and what was there of earlier lives when it was opened; each writer has one life.
    writers: BTreeMap<u32, Vec<Issued>>,
    /// The log is not in the order of the numbers.
    unordered: bool,
    /// The highest number that was acknowledged, which every view of this life shows.
    acked: u64,
    /// Up to which number everything must be there after a loss.
    must: [u64; 3],
    /// What the next life began with of this one.
    cut: Option<u64>,
    /// Somebody has begun to take over.
    pub contested: bool,
    pub closing: bool,
}

fn replay(batches: &[Placed]) -> Content {
    let mut content = Content::new();
    for change in batches.iter().flat_map(|batch| batch.issued.changes.iter()) {
        match change {
            Change::Put(key, value) => drop(content.insert(key.clone(), value.clone())),
            Change::Delete(key) => drop(content.remove(key)),
            Change::Range(from, to) => content.retain(|key, _| key < from || key >= to),
        }
    }
    content
}

/// All that a view has, by a scan; forward or backward.
pub fn scan(view: &View, sequence: u64, forward: bool) -> Content {
    let mut found = Content::new();
    let mut iter = view.iter(sequence).unwrap();
    let mut there = if forward { iter.seek_first().unwrap() } else { iter.seek_last().unwrap() };
    while there {
        let (key, value) = (iter.key().to_vec(), iter.value().to_vec());
        assert!(found.insert(key, value).is_none(), "a key came twice");
        there = if forward { iter.next().unwrap() } else { iter.prev().unwrap() };
    }
    found
}

impl Life {
    pub fn new(number: usize, machine: usize, unordered: bool) -> Life {
        Life { number, machine, unordered, ..Life::default() }
    }

    /// The next batch of a writer.
    pub fn issue(&mut self, writer: u32, mut changes: Vec<Change>) -> Arc<[Change]> {
        let issued = self.writers.entry(writer).or_default();
        assert!(issued.last().is_none_or(|last| last.placed.is_some()), "one after the other");
        changes.push(Change::Put(counter(writer), (issued.len() + 1).to_string().into_bytes()));
        let changes: Arc<[Change]> = changes.into();
        issued.push(Issued { changes: Arc::clone(&changes), placed: None, kept: None });
        changes
    }

    /// The writer's last batch has been acknowledged.
    pub fn acknowledge(&mut self, writer: u32, first: u64, last: u64) {
        let issued = self.writers.get_mut(&writer).and_then(|issued| issued.last_mut()).unwrap();
        assert_eq!(last + 1 - first, issued.changes.len() as u64, "as many numbers as writes");
        issued.placed = Some((first, last));
        self.acked = self.acked.max(last);
    }

    /// The writer's last batch survives this.
    pub fn keep(&mut self, writer: u32, loss: Loss) {
        self.writers.get_mut(&writer).and_then(|issued| issued.last_mut()).unwrap().kept = Some(loss);
    }

    /// What a writer's counter says after its last batch.
    pub fn count(&self, writer: u32) -> Vec<u8> {
        self.writers[&writer].len().to_string().into_bytes()
    }

    /// Up to which number everything must be there after a loss.
    pub fn promised(&self, loss: Loss) -> u64 {
        self.must[loss as usize]
    }

    /// Everything up to this number was promised to survive a loss.
    pub fn promise(&mut self, loss: Loss, sequence: u64) {
        if loss == Loss::Disk
            && let Some(cut) = self.cut
        {
            let number = self.number;
            assert!(sequence <= cut, "life {number} says it published {sequence}, but was taken over at {cut}");
        }
        for must in &mut self.must[..=loss as usize] {
            *must = sequence.max(*must);
        }
    }

    /// The batches that a view has of this life, in order, after it is clear that it has what it should.
    fn included(&self, view: &View, sequence: u64, expected: Expected) -> Vec<Placed> {
        let found = scan(view, sequence, sequence.is_multiple_of(2));
        let mut batches = Vec::new();
        for (&writer, issued) in &self.writers {
            let key = counter(writer);
            let count = found.get(&key).map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
            assert!(count <= issued.len(), "writer {writer} asked for {} batches, {count} are there", issued.len());
            for (at, one) in issued.iter().enumerate() {
                let there = count > at;
                let (first, last) = match one.placed {
                    Some(placed) => placed,
                    None if there => {
                        let last = view.get_version(&key, sequence).unwrap().unwrap().sequence;
                        (last + 1 - one.changes.len() as u64, last)
                    }
                    None => continue,
                };
                let right = match expected {
                    Expected::All => there == (last <= sequence),
                    Expected::Some(must, loss) => there || (last > must && one.kept < Some(loss)),
                };
                let at = at + 1;
                assert!(
                    right,
                    "batch {at} of writer {writer} with numbers {first} to {last}, seen from {sequence}: {there}"
                );
                if there {
                    let issued = Issued { placed: Some((first, last)), ..one.clone() };
                    batches.push(Placed { writer, first, issued });
                } else if let Expected::All = expected {
                    assert!(first > sequence, "a part of batch {at} of writer {writer} is there");
                }
            }
        }
        batches.sort_by_key(|batch| batch.first);
        for pair in batches.windows(2) {
            let last = pair[0].issued.placed.map(|(_, last)| last);
            assert!(last < Some(pair[1].first), "two batches have one number");
        }
        let expected = replay(&batches);
        if found != expected {
            let wrong: Vec<String> = found
                .iter()
                .filter(|(key, value)| expected.get(*key) != Some(value))
                .chain(expected.iter().filter(|(key, _)| !found.contains_key(*key)))
                .map(|(key, _)| {
                    let text = |content: &Content| content.get(key).map(|value| value.escape_ascii().to_string());
                    format!("{}: {:?} for {:?}", key.escape_ascii(), text(&found), text(&expected))
                })
                .collect();
            panic!("at {sequence}: {wrong:#?}");
        }
        batches
    }

    /// A view of this life's own store has what it should.
    pub fn check(&self, view: &View) {
        let (number, acked, shown) = (self.number, self.acked, view.read_sequence());
        assert!(shown >= acked, "life {number} acknowledged {acked}, and shows {shown}");
        drop(self.included(view, view.read_sequence(), Expected::All));
    }

    /// The life that begins with what `view` shows, after a loss.
    pub fn next(&mut self, number: usize, machine: usize, loss: Loss, view: &View, sequence: u64) -> Life {
        let must = self.must[loss as usize];
        assert!(sequence >= must, "{sequence} is there of life {}, but {must} was promised ({loss:?})", self.number);
        let expected = if self.unordered { Expected::Some(must, loss) } else { Expected::All };
        let batches = self.included(view, sequence, expected);
        self.cut = Some(sequence);
        let mut next = Life { acked: sequence, ..Life::new(number, machine, self.unordered) };
        for Placed { writer, issued, .. } in batches {
            next.writers.entry(writer).or_default().push(issued);
        }
        // What survived one more loss than it was promised to may not survive another one.
        for kept in [Loss::Process, Loss::Machine, Loss::Disk] {
            next.must[kept as usize] = self.must[kept.max(loss) as usize].min(sequence);
        }
        next
    }
}
