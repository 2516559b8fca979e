//! The protocol of writers, garbage collection, a checkpoint and a reader as a state machine: each step is one request to
//! the object store and what its answer is followed by, with the name of the function that makes it.
//!
//! To keep it small a manifest names one table, which a flush has merged from the one before and the new write; only the
//! newest manifest is retained; and time is one rule: who reads without a checkpoint is done before the quarantine is.

/// Numbers of manifests, and tables.
const NUMBERS: usize = 12;
const TABLES: usize = 8;
/// How often a writer tries to open the store.
const OPENINGS: u8 = 2;

/// Rules that can be left out, to see what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A writer looks for its epoch's fence before it believes in a creation (store/publish.rs, `settle`).
    pub looks_for_its_fence: bool,
    /// Collection fences the epochs before its own before it deletes manifests (gc/pass.rs, `fence`).
    pub fences: bool,
    /// Who takes over lists what is behind the manifest that it made (store/open.rs, `take_over`).
    pub lists_behind_its_takeover: bool,
    /// What a pass finds is deleted by another one (gc/pass.rs, `run`, `Found::useless`).
    pub two_passes: bool,
    /// Tables of later epochs stay (gc/pass.rs, `tables`).
    pub watermark: bool,
    /// A pass lists manifests again before it deletes (gc/pass.rs, `delete`).
    pub lists_again: bool,
    /// The boundary is there before checkpoints are listed (gc/pass.rs, `run`).
    pub boundary_before_checkpoints: bool,
    /// Who makes a checkpoint looks for the boundary when its proposal is there (checkpoint/mod.rs, `came_in_time`).
    pub looks_for_the_boundary: bool,
    /// What checkpoints keep stays (gc/pass.rs, `keep_tables`).
    pub spares_checkpoints: bool,
}

/// All of them.
pub const RULES: Rules = Rules {
    looks_for_its_fence: true,
    fences: true,
    lists_behind_its_takeover: true,
    two_passes: true,
    watermark: true,
    lists_again: true,
    boundary_before_checkpoints: true,
    looks_for_the_boundary: true,
    spares_checkpoints: true,
};

/// How often each may act.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Writes that are flushed, by each writer.
    pub flushes: [u8; 2],
    /// Passes of garbage collection that each begins.
    pub passes: [u8; 2],
    /// Somebody makes a checkpoint.
    pub checkpoint: bool,
    /// Somebody reads the newest manifest and its table.
    pub reader: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Manifest {
    epoch: u8,
    table: u8,
    /// Tells attempts apart.
    nonce: u8,
}

/// How far a writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Closed,
    /// It has read the newest manifest.
    Found(u8, Manifest),
    /// Its tables are on the local disk.
    Complete(u8, Manifest),
    /// It has created the next one.
    Took(u8, Manifest),
    Open,
    Fenced,
}

/// How far the publication of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Publishing {
    No,
    Flushed(u8),
    Uploaded(u8),
    /// A creation was asked for, and nobody knows what became of it.
    InDoubt(Manifest),
    Created(Manifest),
}

/// How far a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Listed,
    Fenced,
    Bounded,
    Spared,
    Judged,
    Again,
    Deleting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pass {
    phase: Phase,
    /// As it was listed first.
    newest: u8,
    /// Below it manifests go now.
    now: u8,
    later: u8,
    /// The table that a checkpoint keeps, and its manifest.
    spared: Option<(u8, u8)>,
    doomed_manifests: u16,
    doomed_tables: u8,
    /// What the pass before would have had stay, and found useless.
    stayed: Option<u8>,
    useless: u8,
    /// The highest manifest that is known to name each table.
    last: [u8; TABLES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    life: Life,
    epoch: u8,
    published: u8,
    table: u8,
    publishing: Publishing,
    openings: u8,
    flushes: u8,
    passes: u8,
    pass: Pass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Checkpointer {
    Idle,
    Read(u8, Manifest),
    Proposed(u8, Manifest),
    InTime(u8, Manifest),
    Held(u8, Manifest),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    /// The table that it is about to read; whether a pass has begun meanwhile.
    Reading(u8, bool),
    Done,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    manifests: [Option<Manifest>; NUMBERS],
    /// Whether an object is there, by table; of which epoch; which writes it holds.
    objects: u8,
    table_epochs: [u8; TABLES],
    table_writes: [u8; TABLES],
    tables: u8,
    nonces: u8,
    fences: u8,
    boundary: u8,
    writers: [Writer; 2],
    checkpointer: Checkpointer,
    reader: Reader,
    /// Ghosts: writes that were acknowledged, epochs that somebody opened, and what went wrong.
    acknowledged: u8,
    opened: u8,
    broken: Option<&'static str>,
}

const IDLE: Pass = Pass {
    phase: Phase::Idle,
    newest: 0,
    now: 0,
    later: 0,
    spared: None,
    doomed_manifests: 0,
    doomed_tables: 0,
    stayed: None,
    useless: 0,
    last: [0; TABLES],
};

/// Writer 0 has the bucket in epoch 1; its manifest 1 names a table without writes.
pub fn start(bounds: &Bounds) -> State {
    let writer = |at: usize| Writer {
        life: Life::Closed,
        epoch: 0,
        published: 0,
        table: 0,
        publishing: Publishing::No,
        openings: OPENINGS,
        flushes: bounds.flushes[at],
        passes: bounds.passes[at],
        pass: IDLE,
    };
    let first = Manifest { epoch: 1, table: 0, nonce: 0 };
    let mut manifests = [None; NUMBERS];
    manifests[1] = Some(first);
    let mut zero = Writer { life: Life::Open, epoch: 1, published: 1, ..writer(0) };
    zero.pass.last[0] = 1;
    State {
        manifests,
        objects: 1,
        table_epochs: [1, 0, 0, 0, 0, 0, 0, 0],
        table_writes: [0; TABLES],
        tables: 1,
        nonces: 1,
        fences: 0,
        boundary: 0,
        writers: [zero, writer(1)],
        checkpointer: if bounds.checkpoint { Checkpointer::Idle } else { Checkpointer::Over },
        reader: if bounds.reader { Reader::Idle } else { Reader::Done },
        acknowledged: 0,
        opened: 1 << 1,
        broken: None,
    }
}

fn bit(of: u8) -> u8 {
    1 << of
}

impl State {
    fn newest(&self) -> (u8, Manifest) {
        let found = self.manifests.iter().enumerate().rev().find_map(|(at, found)| Some((at as u8, (*found)?)));
        found.unwrap_or((0, Manifest { epoch: 0, table: 0, nonce: 0 }))
    }

    fn there(&self, table: u8) -> bool {
        self.objects & bit(table) != 0
    }

    /// What is wrong in this state.
    pub fn wrong(&self) -> Option<&'static str> {
        let (_, newest) = self.newest();
        if self.broken.is_some() {
            return self.broken;
        }
        if !self.there(newest.table) {
            return Some("the newest manifest names a table that is gone");
        }
        if self.acknowledged & !self.table_writes[newest.table as usize] != 0 {
            return Some("an acknowledged write is not in the newest manifest");
        }
        match self.checkpointer {
            Checkpointer::Held(number, manifest)
                if self.manifests[number as usize] != Some(manifest) || !self.there(manifest.table) =>
            {
                Some("what a checkpoint holds is gone")
            }
            _ => None,
        }
    }

    fn nonce(&mut self) -> u8 {
        self.nonces += 1;
        self.nonces - 1
    }

    /// Every state that one step leads to, with the step's name.
    pub fn next(&self, rules: &Rules) -> Vec<(&'static str, State)> {
        let mut next = Vec::new();
        for at in 0..2 {
            self.write(at, rules, &mut next);
            self.open(at, rules, &mut next);
            self.collect(at, rules, &mut next);
        }
        self.checkpoint(rules, &mut next);
        self.read(&mut next);
        next
    }

    /// `Store::flush_local`, `Store::publish` and `settle`.
    fn write(&self, at: usize, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        let writer = &self.writers[at];
        if writer.life != Life::Open {
            return;
        }
        let number = writer.published + 1;
        let mut to = self.clone();
        match writer.publishing {
            Publishing::No if writer.flushes > 0 => {
                let (table, write) = (self.tables, self.tables - 1);
                to.tables += 1;
                to.table_epochs[table as usize] = writer.epoch;
                to.table_writes[table as usize] = self.table_writes[writer.table as usize] | bit(write);
                to.writers[at].flushes -= 1;
                to.writers[at].publishing = Publishing::Flushed(table);
                next.push((["0 flush_local", "1 flush_local"][at], to));
            }
            Publishing::Flushed(table) => {
                to.objects |= bit(table);
                to.writers[at].publishing = Publishing::Uploaded(table);
                next.push((["0 publish: upload", "1 publish: upload"][at], to));
            }
            Publishing::Uploaded(table) => {
                let manifest = Manifest { epoch: writer.epoch, table, nonce: to.nonce() };
                to.writers[at].publishing = Publishing::InDoubt(manifest);
                to.writers[at].pass.last[table as usize] = number;
                to.create(at, number, manifest, next);
            }
            Publishing::InDoubt(manifest) => to.create(at, number, manifest, next),
            Publishing::Created(manifest) => {
                let to_writer = &mut to.writers[at];
                if rules.looks_for_its_fence && self.fences & bit(writer.epoch) != 0 {
                    to_writer.life = Life::Fenced;
                } else {
                    to_writer.publishing = Publishing::No;
                    (to_writer.published, to_writer.table) = (number, manifest.table);
                    to.acknowledged |= self.table_writes[manifest.table as usize];
                }
                next.push((["0 settle: fence?", "1 settle: fence?"][at], to));
            }
            Publishing::No => {}
        }
    }

    /// `publish::create`, and the same with an answer that is lost.
    fn create(self, at: usize, number: u8, manifest: Manifest, next: &mut Vec<(&'static str, State)>) {
        let mut to = self;
        match to.manifests[number as usize] {
            Some(there) if there != manifest => to.writers[at].life = Life::Fenced,
            there => {
                to.manifests[number as usize] = Some(manifest);
                if there.is_none() {
                    next.push((["0 create, answer lost", "1 create, answer lost"][at], to.clone()));
                }
                to.writers[at].publishing = Publishing::Created(manifest);
            }
        }
        next.push((["0 settle: create", "1 settle: create"][at], to));
    }

    /// `Store::open`.
    fn open(&self, at: usize, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        let mut to = self.clone();
        match self.writers[at].life {
            Life::Closed => {
                if self.writers[at].openings == 0 {
                    return;
                }
                to.writers[at].openings -= 1;
                let (number, manifest) = self.newest();
                to.writers[at].life = Life::Found(number, manifest);
                next.push((["0 open: latest", "1 open: latest"][at], to));
            }
            Life::Found(number, manifest) => {
                to.writers[at].life = match (self.there(manifest.table), self.newest().0 > number) {
                    (true, _) => Life::Complete(number, manifest),
                    (false, true) => Life::Closed,
                    (false, false) => {
                        to.broken = Some("a table of the newest manifest is gone when the store is opened");
                        Life::Closed
                    }
                };
                next.push((["0 open: complete", "1 open: complete"][at], to));
            }
            Life::Complete(number, base) => {
                if self.manifests[number as usize + 1].is_some() {
                    to.writers[at].life = Life::Closed;
                    next.push((["0 open: created by another", "1 open: created by another"][at], to));
                    return;
                }
                let manifest = Manifest { epoch: base.epoch + 1, table: base.table, nonce: to.nonce() };
                to.manifests[number as usize + 1] = Some(manifest);
                to.writers[at].life = Life::Closed;
                next.push((["0 open: create, answer lost", "1 open: create, answer lost"][at], to.clone()));
                to.writers[at].life = Life::Took(number + 1, manifest);
                next.push((["0 open: create", "1 open: create"][at], to));
            }
            Life::Took(number, manifest) => {
                if rules.lists_behind_its_takeover && self.newest().0 > number {
                    to.writers[at].life = Life::Closed;
                } else {
                    to.writers[at].life = Life::Open;
                    let writer = &mut to.writers[at];
                    (writer.epoch, writer.published, writer.table) = (manifest.epoch, number, manifest.table);
                    writer.pass.last[manifest.table as usize] = number;
                    if to.opened & bit(manifest.epoch) != 0 {
                        to.broken = Some("two writers have the same epoch");
                    }
                    to.opened |= bit(manifest.epoch);
                    if self.acknowledged & !self.table_writes[manifest.table as usize] != 0 {
                        to.broken = Some("a store was opened without an acknowledged write");
                    }
                }
                next.push((["0 open: newest_number", "1 open: newest_number"][at], to));
            }
            Life::Open | Life::Fenced => {}
        }
    }

    /// `Pass::run`.
    fn collect(&self, at: usize, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        let writer = &self.writers[at];
        if !matches!(writer.life, Life::Open) {
            return;
        }
        let (mut to, pass) = (self.clone(), &writer.pass);
        let epoch = writer.epoch;
        let of = &mut to.writers[at].pass;
        let step = match pass.phase {
            Phase::Idle => {
                // The quarantine: who reads without a checkpoint was done before it is over.
                if writer.passes == 0 || matches!(self.reader, Reader::Reading(_, true)) {
                    return;
                }
                let (newest, manifest) = self.newest();
                to.writers[at].passes -= 1;
                if newest > writer.published && manifest.epoch != epoch {
                    to.writers[at].life = Life::Fenced;
                } else {
                    let of = &mut to.writers[at].pass;
                    let stood = if rules.two_passes { pass.stayed.unwrap_or(0) } else { newest };
                    (of.phase, of.newest, of.later) = (Phase::Listed, newest, self.boundary.max(newest));
                    of.now = self.boundary.max(stood.min(newest));
                    for (number, manifest) in self.manifests.iter().enumerate().skip(of.now as usize) {
                        if let Some(manifest) = manifest {
                            let last = &mut of.last[manifest.table as usize];
                            *last = (*last).max(number as u8);
                        }
                    }
                    of.stayed = Some(newest);
                }
                if let Reader::Reading(_, begun) = &mut to.reader {
                    *begun = true;
                }
                ["0 gc: manifests", "1 gc: manifests"]
            }
            Phase::Listed => {
                of.phase = Phase::Fenced;
                if !rules.boundary_before_checkpoints {
                    of.spared = self.spared();
                }
                let below = self.manifests[..pass.now as usize].iter().any(Option::is_some);
                if rules.fences && below {
                    (1..epoch).for_each(|older| to.fences |= bit(older));
                }
                ["0 gc: fence", "1 gc: fence"]
            }
            Phase::Fenced => {
                of.phase = Phase::Bounded;
                to.boundary = self.boundary.max(pass.now);
                ["0 gc: boundary", "1 gc: boundary"]
            }
            Phase::Bounded => {
                of.phase = Phase::Spared;
                if rules.boundary_before_checkpoints {
                    of.spared = self.spared();
                }
                if !rules.spares_checkpoints {
                    of.spared = None;
                }
                ["0 gc: checkpoints", "1 gc: checkpoints"]
            }
            Phase::Spared => {
                of.phase = Phase::Judged;
                self.judge(at, rules, of);
                ["0 gc: tables", "1 gc: tables"]
            }
            Phase::Judged => {
                of.phase = Phase::Again;
                let (newest, manifest) = self.newest();
                if rules.lists_again && newest > pass.newest && newest > writer.published && manifest.epoch != epoch {
                    to.writers[at].life = Life::Fenced;
                }
                ["0 gc: newest_number", "1 gc: newest_number"]
            }
            Phase::Again => {
                of.phase = Phase::Deleting;
                for (number, manifest) in to.manifests.iter_mut().enumerate() {
                    if pass.doomed_manifests >> number & 1 == 1 {
                        *manifest = None;
                    }
                }
                ["0 gc: delete manifests", "1 gc: delete manifests"]
            }
            Phase::Deleting => {
                of.phase = Phase::Idle;
                to.objects &= !pass.doomed_tables;
                (of.newest, of.now, of.later, of.spared) = (0, 0, 0, None);
                (of.doomed_manifests, of.doomed_tables) = (0, 0);
                ["0 gc: delete tables", "1 gc: delete tables"]
            }
        };
        next.push((step[at], to));
    }

    fn spared(&self) -> Option<(u8, u8)> {
        match self.checkpointer {
            Checkpointer::Proposed(number, manifest)
            | Checkpointer::InTime(number, manifest)
            | Checkpointer::Held(number, manifest) => Some((number, manifest.table)),
            _ => None,
        }
    }

    /// What goes, and what the next pass may delete.
    fn judge(&self, at: usize, rules: &Rules, pass: &mut Pass) {
        let writer = &self.writers[at];
        pass.doomed_manifests = 0;
        for number in 0..pass.now {
            let spared = pass.spared.is_some_and(|(kept, _)| kept == number);
            if self.manifests[number as usize].is_some() && !spared {
                pass.doomed_manifests |= 1 << number;
            }
        }
        let before = std::mem::take(&mut pass.useless);
        pass.doomed_tables = 0;
        let local = match writer.publishing {
            Publishing::No => writer.table,
            Publishing::Flushed(table) | Publishing::Uploaded(table) => table,
            Publishing::InDoubt(manifest) | Publishing::Created(manifest) => manifest.table,
        };
        for table in (0..self.tables).filter(|table| self.there(*table)) {
            let last = pass.last[table as usize];
            let epoch = self.table_epochs[table as usize];
            let spared = pass.spared.is_some_and(|(_, kept)| kept == table);
            let newer = rules.watermark && epoch > writer.epoch;
            if spared || newer || table == local || last >= pass.later {
                continue;
            }
            pass.useless |= bit(table);
            if last < pass.now && (before & bit(table) != 0 || !rules.two_passes) {
                pass.doomed_tables |= bit(table);
            }
        }
    }

    /// `Checkpoints::create` and `Checkpoints::delete`.
    fn checkpoint(&self, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        let mut to = self.clone();
        let (step, then) = match self.checkpointer {
            Checkpointer::Idle => {
                let (number, manifest) = self.newest();
                ("checkpoint: manifest", Checkpointer::Read(number, manifest))
            }
            Checkpointer::Read(number, manifest) => ("checkpoint: propose", Checkpointer::Proposed(number, manifest)),
            Checkpointer::Proposed(number, manifest) => {
                let late = rules.looks_for_the_boundary && number < self.boundary;
                let then = if late { Checkpointer::Over } else { Checkpointer::InTime(number, manifest) };
                ("checkpoint: boundary?", then)
            }
            Checkpointer::InTime(number, manifest) => {
                let there = self.manifests[number as usize] == Some(manifest);
                let then = if there { Checkpointer::Held(number, manifest) } else { Checkpointer::Over };
                ("checkpoint: manifest there? held", then)
            }
            Checkpointer::Held(..) => ("checkpoint: delete", Checkpointer::Over),
            Checkpointer::Over => return,
        };
        to.checkpointer = then;
        next.push((step, to));
    }

    /// `candidates`, `missing_table`, a follower: whoever reads the newest manifest and then what it names.
    fn read(&self, next: &mut Vec<(&'static str, State)>) {
        let mut to = self.clone();
        match self.reader {
            Reader::Idle => to.reader = Reader::Reading(self.newest().1.table, false),
            Reader::Reading(table, _) => {
                to.reader = Reader::Done;
                if !self.there(table) {
                    to.broken = Some("a reader does not find what the newest manifest named when it began");
                }
            }
            Reader::Done => return,
        }
        next.push(("reader", to));
    }
}
