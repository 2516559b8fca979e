//! The course of a simulation: lives follow each other on several machines, through kills, power cuts, takeovers from
//! writers that live on, orderly stops and bad weather; in the end the sun shines and everything must come to rest.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, select};
use lsmstore::{
    CheckpointError, Config, DeterministicReactor, FlushError, FlushOptions, LogChoice, OpenError, Reactor,
    StorageError, Store,
};

use crate::actors::{Running, Yielding};
use crate::bucket::{Bucket, Weather};
use crate::journal::Keeper;
use crate::machine::{Machine, Process};
use crate::model::{Life, Loss};
use crate::settings::Settings;
use crate::tally::{self, Event};

const MACHINES: usize = 3;
/// Virtual time within which anything must be done once the weather is good.
const PATIENCE: Duration = Duration::from_secs(900);

/// An opening asks for many things, each of which must come. After so many attempts they do.
const FAIR: u32 = 10;

pub struct World {
    pub reactor: DeterministicReactor,
    pub bucket: Arc<Bucket>,
    pub machines: Vec<Machine>,
    /// Where somebody follows.
    pub watcher: Machine,
    /// The newest life.
    pub newest: Mutex<Option<Arc<Running>>>,
    pub settings: Settings,
    writers: AtomicU32,
    lives: AtomicU64,
    /// No outage begins.
    calm: AtomicBool,
}

/// The newest life, and what happened since it ended.
pub struct Last {
    pub life: Arc<Mutex<Life>>,
    pub loss: Loss,
}

/// What an opening gave.
pub struct Opened {
    pub store: Store,
    pub keeper: Option<Arc<Keeper>>,
}

/// A fault that may interrupt an opening.
#[derive(Clone, Copy, PartialEq)]
pub enum Blow {
    Kill,
    Power,
}

impl World {
    pub fn new(reactor: &DeterministicReactor, root: &Path) -> World {
        let bucket = Arc::new(Bucket::new(reactor.clone()));
        let machines = (0..MACHINES).map(|name| Machine::new(root, name, &bucket)).collect();
        let settings = Settings::draw(reactor);
        crate::tell(reactor, || format!("{settings:?}"));
        World {
            reactor: reactor.clone(),
            machines,
            watcher: Machine::new(root, MACHINES, &bucket),
            bucket,
            newest: Mutex::default(),
            settings,
            writers: AtomicU32::new(0),
            lives: AtomicU64::new(0),
            calm: AtomicBool::new(false),
        }
    }

    pub fn random(&self, below: u64) -> u64 {
        self.reactor.random(below)
    }

    pub async fn sleep(&self, most: u64) {
        self.reactor.sleep(Duration::from_millis(self.random(most))).await;
    }

    pub fn tell(&self, text: impl FnOnce() -> String) {
        crate::tell(&self.reactor, text);
    }

    pub fn config(&self, folder: &Path, accept: bool, manifests: usize) -> Config {
        let settings = &self.settings;
        let config = Config::new(folder, "sim")
            .memtable_bytes(settings.memtable)
            .max_frozen(settings.max_frozen)
            .block_bytes(256)
            .l0_merge_trigger(settings.l0_trigger)
            .table_bytes(settings.table)
            .level_bytes(settings.level)
            .level_factor(3)
            .max_pending_bytes(settings.pending)
            .keep_manifests(manifests)
            .keep_for(settings.keep_for)
            .quarantine(settings.quarantine)
            .remote_log(settings.remote_log)
            .accept_log_loss(accept);
        settings.rate.map_or(config.clone(), |rate| config.merge_rate(rate))
    }

    /// The log that the owner keeps on a machine, for a process.
    fn keeper(&self, machine: &Machine, process: &Arc<Process>) -> Option<Arc<Keeper>> {
        let (journal, process) = (Arc::clone(&machine.journal), Arc::clone(process));
        self.settings.journal.then(|| Arc::new(Keeper { journal, process }))
    }

    /// A process opens the store in a folder.
    pub fn opening(
        &self,
        config: Config,
        machine: &Machine,
        process: &Arc<Process>,
    ) -> impl Future<Output = Result<Opened, OpenError>> + Send + use<> {
        let (link, env) = (Arc::new(machine.link.clone()), Arc::clone(&process.env) as _);
        let keeper = self.keeper(machine, process);
        let log = if self.settings.own_log { LogChoice::Own } else { LogChoice::Nobody };
        async move {
            let store = match &keeper {
                Some(keeper) => Arc::clone(keeper).open(config, link, env).await?,
                None => Store::open(config, link, env, log).await?,
            };
            Ok(Opened { store, keeper })
        }
    }

    /// Nothing that takes longer than it may goes on for ever.
    pub async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        match select(Box::pin(work), self.reactor.sleep(PATIENCE)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => panic!("{what} does not end"),
        }
    }

    /// Tries to open the store on a machine until it is open; some attempts are cut off.
    pub async fn open(self: &Arc<World>, machine: usize, last: &mut Option<Last>, blows: bool) -> Arc<Running> {
        // Not everybody agrees beforehand that a log is left behind.
        let stopped = last.as_ref().is_some_and(|last| last.life.lock().unwrap().closing);
        let mut asks = self.settings.own_log && (stopped || self.random(3) == 0);
        for attempt in 0.. {
            if attempt == FAIR {
                self.tell(|| "the weather relents".to_owned());
                self.calm(Weather { latency: self.settings.weather.latency, ..Weather::default() });
            }
            let here = &self.machines[machine];
            if let Some(last) = last {
                let mut life = last.life.lock().unwrap();
                life.contested = true;
                if life.machine != machine {
                    // From now on the bucket may be what counts, whatever becomes of this attempt.
                    last.loss = Loss::Disk;
                }
            }
            let leaves = last.as_ref().is_some_and(|last| last.loss == Loss::Disk);
            let accept = leaves && !asks;
            let faults = if blows { self.settings.disk_faults } else { 0 };
            let fuse = (blows && self.random(6) == 0).then(|| 1 + self.random(1 << self.random(12)));
            let process = here.start(&self.reactor, faults, fuse);
            let manifests = if blows { self.settings.manifests } else { 1 };
            let opening = self.opening(self.config(&here.folder(), accept, manifests), here, &process);
            let (send, opened) = futures::channel::oneshot::channel();
            process.reactor().spawn(Box::pin(async move {
                let _ = send.send(opening.await);
            }));
            self.tell(|| format!("opening on machine {machine}, accepting the loss of a log: {accept}"));
            let blow = match self.random(12) {
                0 if blows => Some(Blow::Kill),
                1 if blows => Some(Blow::Power),
                _ => None,
            };
            let time = match blow {
                Some(_) => Duration::from_millis(self.random(400)),
                None => PATIENCE,
            };
            let opened = match select(opened, self.reactor.sleep(time)).await {
                Either::Left((opened, _)) => opened.expect("the opening ends"),
                Either::Right(_) => {
                    let blow = blow.expect("an opening ends within the time that anything may take");
                    self.tell(|| "the opening is cut off".to_owned());
                    self.end(&process, machine, blow, last.as_mut());
                    continue;
                }
            };
            match opened {
                Ok(opened) => {
                    if attempt >= FAIR {
                        self.bucket.set(self.settings.weather);
                        self.calm.store(false, Ordering::Relaxed);
                    }
                    if let Some(last) = last
                        .as_mut()
                        .filter(|_| self.settings.own_log && leaves && !accept && !self.settings.remote_log)
                    {
                        // Then nothing was left behind that was durable anywhere.
                        last.loss = Loss::Machine;
                        tally::count(Event::Moved);
                    }
                    return self.begin(opened, process, machine, last);
                }
                Err(error) => {
                    self.tell(|| format!("the opening fails: {error}"));
                    let fair = match &error {
                        OpenError::Storage(StorageError::Object { .. }) | OpenError::Contended { .. } => true,
                        OpenError::ReplayFlush(error) => {
                            matches!(**error, FlushError::Storage(StorageError::Object { .. })) || process.failed()
                        }
                        OpenError::Log(_) => process.failed(),
                        OpenError::Base(CheckpointError::Storage(StorageError::Object { .. })) => true,
                        OpenError::Storage(StorageError::Local { .. }) => process.failed(),
                        OpenError::LogElsewhere { .. } if self.settings.remote_log => false,
                        OpenError::LogElsewhere { .. } | OpenError::OrphanedLog { .. } if leaves && !accept => {
                            asks = false;
                            tally::count(Event::Refused);
                            true
                        }
                        _ => false,
                    };
                    assert!(fair, "{error}");
                    let blow = if process.blown() { self.after_the_fuse() } else { Blow::Kill };
                    self.end(&process, machine, blow, last.as_mut());
                    self.sleep(500).await;
                }
            }
        }
        unreachable!("attempts never end")
    }

    /// What ends a process whose fuse has blown.
    fn after_the_fuse(&self) -> Blow {
        self.tell(|| "a fuse has blown".to_owned());
        tally::count(Event::Fuse);
        if self.random(2) == 0 { Blow::Kill } else { Blow::Power }
    }

    /// Sleeps for a while, unless a fuse blows.
    async fn watch(&self, running: &Running, most: u64) {
        let until = self.reactor.monotonic() + Duration::from_millis(self.random(most));
        while self.reactor.monotonic() < until && !running.process.blown() {
            self.reactor.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends those that live on where a store is to be opened.
    fn end_zombies(&self, zombies: &mut Vec<Arc<Running>>, machine: usize) {
        zombies.retain(|zombie| {
            let there = zombie.life().machine == machine;
            if there {
                zombie.process.kill();
            }
            !there
        });
    }

    pub fn end(&self, process: &Process, machine: usize, blow: Blow, last: Option<&mut Last>) {
        process.kill();
        self.machines[machine].journal.crash(|below| if self.settings.journal { self.random(below) } else { 0 });
        if blow == Blow::Power {
            self.machines[machine].lose_power(&self.reactor);
            if let Some(last) = last {
                last.loss = last.loss.max(Loss::Machine);
            }
        }
    }

    /// Looks at what was opened, and sets everybody to work.
    fn begin(
        self: &Arc<World>,
        opened: Opened,
        process: Arc<Process>,
        machine: usize,
        last: &mut Option<Last>,
    ) -> Arc<Running> {
        let Opened { store, keeper } = opened;
        let number = self.lives.fetch_add(1, Ordering::Relaxed) as usize;
        let view = store.view().unwrap();
        let sequence = view.read_sequence();
        assert!(self.settings.journal || sequence == store.last_sequence(), "all that has a number is there");
        self.tell(|| format!("life {number} on machine {machine}, epoch {}, begins at {sequence}", store.epoch()));
        let mut life = match last {
            None => Life::new(number, machine, self.settings.journal),
            Some(last) => {
                let mut before = last.life.lock().unwrap();
                if before.machine != machine {
                    tally::count(Event::Takeover);
                }
                before.next(number, machine, last.loss, &view, sequence)
            }
        };
        life.promise(Loss::Disk, store.manifest().last_sequence);
        if self.settings.own_log || self.settings.journal {
            // What was recovered is durable.
            life.promise(Loss::Machine, sequence);
        }
        let running = Arc::new(Running {
            store,
            process,
            life: Arc::new(Mutex::new(life)),
            own_log: self.settings.own_log,
            remote_log: self.settings.remote_log,
            keeper,
            stop: AtomicBool::new(false),
            writing: AtomicU64::new(self.settings.writers + 1),
        });
        *last = Some(Last { life: Arc::clone(&running.life), loss: Loss::Process });
        *self.newest.lock().unwrap() = Some(Arc::clone(&running));
        let reactor = running.process.reactor();
        reactor.spawn(Box::pin(running.store.upkeep(Arc::new(Yielding(reactor.clone())))));
        for _ in 0..self.settings.writers {
            let writer = self.writers.fetch_add(1, Ordering::Relaxed);
            reactor.spawn(Box::pin(Arc::clone(&running).write(writer, self.settings.pace)));
        }
        reactor.spawn(Box::pin(Arc::clone(&running).read()));
        reactor.spawn(Box::pin(Arc::clone(&running).look_after()));
        running
    }

    /// The whole of it.
    pub async fn run(self: Arc<World>) {
        self.bucket.set(self.settings.weather);
        let auditor = Arc::clone(&self);
        self.reactor.spawn(Box::pin(async move {
            loop {
                auditor.sleep(1600).await;
                auditor.audit();
            }
        }));
        self.reactor.spawn(Box::pin(Arc::clone(&self).weather()));
        self.reactor.spawn(Box::pin(Arc::clone(&self).follow()));
        let mut last = None;
        let mut running = self.open(0, &mut last, true).await;
        let mut zombies: Vec<Arc<Running>> = Vec::new();
        for _ in 0..self.settings.events {
            self.watch(&running, 2000).await;
            let machine = running.life().machine;
            let poisoned = running.process.log_failed();
            zombies.retain(|zombie| {
                let blown = zombie.process.blown();
                if blown {
                    zombie.process.kill();
                }
                !blown
            });
            match self.random(6) {
                _ if running.process.blown() => {
                    let blow = self.after_the_fuse();
                    self.end(&running.process, machine, blow, last.as_mut());
                    running = self.open(machine, &mut last, true).await;
                }
                0 => {
                    self.tell(|| format!("a kill on machine {machine}"));
                    self.end(&running.process, machine, Blow::Kill, last.as_mut());
                    running = self.open(machine, &mut last, true).await;
                }
                1 => {
                    self.tell(|| format!("a power cut on machine {machine}"));
                    self.end(&running.process, machine, Blow::Power, last.as_mut());
                    running = self.open(machine, &mut last, true).await;
                }
                2 if !poisoned => {
                    self.tell(|| format!("a stop on machine {machine}"));
                    self.stop(&running).await;
                    self.end(&running.process, machine, Blow::Kill, last.as_mut());
                    let to = (machine + self.random(MACHINES as u64) as usize) % MACHINES;
                    self.end_zombies(&mut zombies, to);
                    running = self.open(to, &mut last, true).await;
                }
                3 | 4 => {
                    let to = (machine + 1 + self.random(MACHINES as u64 - 1) as usize) % MACHINES;
                    self.end_zombies(&mut zombies, to);
                    self.tell(|| format!("machine {to} takes over from {machine}"));
                    let cut = self.random(3) == 0;
                    if cut {
                        self.machines[machine].link.cut();
                        self.sleep(1000).await;
                    }
                    let before = std::mem::replace(&mut running, self.open(to, &mut last, true).await);
                    zombies.push(before);
                    if cut {
                        self.sleep(2000).await;
                        self.machines[machine].link.mend();
                    }
                }
                _ => {
                    let to = (machine + 1 + self.random(MACHINES as u64 - 1) as usize) % MACHINES;
                    self.tell(|| format!("machine {to} takes over from {machine}, which is killed"));
                    self.end(&running.process, machine, Blow::Kill, last.as_mut());
                    self.end_zombies(&mut zombies, to);
                    running = self.open(to, &mut last, true).await;
                }
            }
        }
        self.watch(&running, 2000).await;
        self.rest(running, last, zombies).await;
    }

    /// Outages of the bucket, or of a machine's link to it, come and go while everything else happens.
    async fn weather(self: Arc<World>) {
        loop {
            self.sleep(6000).await;
            if self.calm.load(Ordering::Relaxed) {
                continue;
            }
            self.tell(|| "bad weather".to_owned());
            if self.random(2) == 0 {
                self.bucket.set(Weather { down: true, ..self.settings.weather });
                self.sleep(4000).await;
                // Otherwise it is good already.
                if !self.calm.load(Ordering::Relaxed) {
                    self.bucket.set(self.settings.weather);
                }
            } else {
                let machine = &self.machines[self.random(MACHINES as u64) as usize];
                machine.link.cut();
                self.sleep(6000).await;
                machine.link.mend();
            }
            self.tell(|| "good weather".to_owned());
        }
    }

    /// Ends all outages, and lets none begin.
    pub fn calm(&self, weather: Weather) {
        self.calm.store(true, Ordering::Relaxed);
        self.bucket.set(weather);
        self.machines.iter().for_each(|machine| machine.link.heal());
    }

    /// Lets a life's writers come to their end.
    pub async fn hush(&self, running: &Running) {
        running.stop.store(true, Ordering::Relaxed);
        let wait = async {
            while running.writing.load(Ordering::Relaxed) > 0 && !running.process.blown() {
                self.reactor.sleep(Duration::from_millis(50)).await;
            }
        };
        self.within("a write", wait).await;
    }

    /// An orderly stop, as good as the weather lets it be.
    pub async fn stop(&self, running: &Running) {
        self.hush(running).await;
        let sequence = running.written();
        let clean = self.random(2) == 0;
        match self.within("a flush", running.store.flush_with(FlushOptions { clean, force: false })).await {
            Ok(_) => running.life().promise(Loss::Disk, sequence),
            Err(error) => running.judge_flush(&error),
        }
        running.life().closing = true;
        if let Err(error) = self.within("a stop", running.store.clone().close()).await {
            running.judge_storage(&error);
        }
    }
}
