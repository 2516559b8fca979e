//! What must hold at any time of what is in the bucket; and in the end, in good weather: everything comes to rest, those
//! who were taken over know it, garbage is gone, and the bucket alone has all of it.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use lsmstore::objects::ObjectStore;
use lsmstore::{
    Checkpoints, Config, FlushError, FlushOptions, GcOptions, JobRecord, JobState, Reactor, Store, SystemEnv, Unusable,
    missing_table, peek, read_manifest,
};
use object_store::ObjectStoreExt;

use crate::actors::Running;
use crate::bucket::{LATEST, Weather};
use crate::model::{Loss, scan};
use crate::world::{Blow, Last, World};

/// Something is due, or going on.
fn is_busy(store: &Store) -> bool {
    let over = |job: &JobRecord| !matches!(job.state, JobState::Queued | JobState::Running);
    store.wants_flush() || store.wants_merge() || store.wants_publish() || !store.jobs().iter().all(over)
}

/// Bytes before and behind the records of an object of the log, see FORMATS.md.
const HEADER: usize = 64;
const TRAILER: usize = 24;

impl World {
    /// What the bucket names is there, whoever looks, whenever.
    pub fn audit(&self) {
        // Memory answers at once, so that nothing changes meanwhile.
        self.names_what_is_there().now_or_never().expect("memory has no latency");
    }

    async fn names_what_is_there(&self) {
        let truth = Arc::clone(&self.bucket.truth) as Arc<dyn ObjectStore>;
        let env: Arc<dyn lsmstore::Env> = Arc::new(SystemEnv::with(Arc::new(self.reactor.clone())));
        let nowhere = Config::new("/nonexistent", "sim");
        let Some(newest) = peek(&truth, "sim").await.unwrap() else { return };
        self.has_what_is_promised(newest.last_sequence).await;
        let boundary = self.numbers("boundary").await.last().copied();
        let mut named = vec![newest];
        for number in self.numbers("manifest").await.into_iter().filter(|number| Some(*number) >= boundary) {
            named.extend(read_manifest(&truth, "sim", number).await.unwrap());
        }
        for checkpoint in Checkpoints::new(Arc::clone(&truth), Arc::clone(&env), "sim").list().await.unwrap() {
            if checkpoint.held {
                let manifest = read_manifest(&truth, "sim", checkpoint.manifest).await.unwrap();
                named.push(manifest.unwrap_or_else(|| panic!("{checkpoint:?} holds nothing")));
            }
        }
        for manifest in named {
            let missing = missing_table(&nowhere, &truth, &env, &manifest).await.unwrap();
            assert_eq!(missing, None, "manifest {} names it", manifest.number);
        }
    }

    /// The numbers of what is named by one, ascending.
    async fn numbers(&self, kind: &str) -> Vec<u64> {
        let listed: Vec<_> = self.bucket.truth.list(Some(&format!("sim/{kind}").into())).try_collect().await.unwrap();
        let mut numbers: Vec<u64> =
            listed.iter().map(|meta| meta.location.filename().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Every write that nobody's disk can lose, above `sequence`, is in the log that is in the bucket.
    async fn has_what_is_promised(&self, sequence: u64) {
        let Some(running) = self.newest.lock().unwrap().clone() else { return };
        let promised = running.life().promised(Loss::Disk);
        if sequence >= promised {
            return;
        }
        let objects: Vec<_> = self.bucket.truth.list(Some(&"sim/wal".into())).try_collect().await.unwrap();
        let mut ranges = Vec::new();
        for object in objects {
            let bytes = self.bucket.truth.get(&object.location).await.unwrap().bytes().await.unwrap();
            let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            if bytes.len() > HEADER + TRAILER {
                ranges.push((number(HEADER + 16), number(bytes.len() - TRAILER + 4)));
            }
        }
        ranges.sort_unstable();
        let mut there = sequence;
        for (first, last) in ranges {
            if first <= there + 1 {
                there = there.max(last);
            }
        }
        assert!(
            there >= promised,
            "{promised} was promised, but of tables and log the bucket has all up to {there} only"
        );
    }

    /// The sun shines.
    pub async fn rest(
        self: &Arc<World>,
        mut running: Arc<Running>,
        mut last: Option<Last>,
        zombies: Vec<Arc<Running>>,
    ) {
        self.tell(|| "the sun shines".to_owned());
        self.calm(Weather::default());
        for one in zombies.iter().chain([&running]) {
            self.hush(one).await;
        }
        // What was late has come.
        self.reactor.sleep(LATEST).await;
        for zombie in &zombies {
            if zombie.process.blown() {
                zombie.process.kill();
                continue;
            }
            let options = FlushOptions { clean: false, force: true };
            let refused = self.within("a zombie's flush", zombie.store.flush_with(options)).await;
            match refused {
                Err(FlushError::Unusable(why)) => zombie.judge(&why),
                Err(error) if zombie.process.failed() => zombie.judge_flush(&error),
                other => panic!("life {} was taken over and goes on: {other:?}", zombie.life().number),
            }
            zombie.process.kill();
        }
        if !running.process.log_failed() {
            self.within("the work that is due", self.idle(&running)).await;
        }
        // The last life collects what earlier ones do not know any more that they uploaded.
        let machine = running.life().machine;
        if !running.process.log_failed() && self.random(2) == 0 {
            self.stop(&running).await;
        }
        self.end(&running.process, machine, Blow::Kill, last.as_mut());
        running = self.open(machine, &mut last, false).await;
        self.hush(&running).await;
        self.within("the work that is due", self.idle(&running)).await;
        self.within("the end of all work", self.settle(&running)).await;
        self.finish(&running).await;
    }

    /// Upkeep alone does all that is due.
    async fn idle(&self, running: &Running) {
        while is_busy(&running.store) && !running.process.log_failed() {
            self.reactor.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that is due is done, and all garbage is gone.
    async fn settle(&self, running: &Running) {
        let store = &running.store;
        loop {
            let sequence = running.written();
            match store.flush().await {
                Ok(_) => running.life().promise(Loss::Disk, sequence),
                Err(error) => return running.judge_flush(&error),
            }
            if !is_busy(store) {
                break;
            }
            self.reactor.sleep(Duration::from_millis(100)).await;
        }
        running.life().check(&store.view().unwrap());
        for checkpoint in store.checkpoints().list().await.unwrap() {
            // One that ended meanwhile is as good.
            let _ = store.checkpoints().delete(checkpoint.id).await;
        }
        loop {
            let report =
                match store.collect_garbage(GcOptions { keep_for: Some(Duration::ZERO), ..GcOptions::default() }).await
                {
                    Ok(report) => report,
                    Err(error) => panic!("in good weather: {error}"),
                };
            if report.settled {
                break;
            }
            self.reactor.sleep(Duration::from_millis(700)).await;
        }
    }

    async fn finish(self: &Arc<World>, running: &Running) {
        let store = &running.store;
        if let Err(why) = store.view() {
            return running.judge(&why);
        }
        let truth = Arc::clone(&self.bucket.truth) as Arc<dyn ObjectStore>;
        self.audit();
        let left: Vec<_> = truth.list(Some(&"sim/sst".into())).try_collect().await.unwrap();
        assert_eq!(left.len() as u64, store.manifest().tables, "tables that nobody needs are gone: {left:?}");
        let manifests = truth.list(Some(&"sim/manifest".into())).count().await;
        assert_eq!(manifests, 1, "manifests that nobody needs are gone");
        let view = store.view().unwrap();
        let expected = scan(&view, view.read_sequence(), true);
        self.stop(running).await;
        let refused = store.view().map(drop);
        assert_eq!(refused, Err(Unusable::Closed), "a store that was closed refuses everything");
        running.process.kill();
        // From the objects alone.
        let process = self.watcher.start(&self.reactor, 0, None);
        let folder = self.watcher.folder().with_file_name("elsewhere");
        let opening = self.opening(self.config(&folder, true, 1), &self.watcher, &process);
        let opened = self.within("an opening", opening).await.unwrap();
        let view = opened.store.view().unwrap();
        assert!(scan(&view, view.read_sequence(), false) == expected, "the bucket has it all");
        drop((opened, view));
        process.kill();
    }
}
