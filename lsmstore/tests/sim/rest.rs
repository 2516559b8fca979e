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

use crate::actors::Running;
use crate::bucket::Weather;
use crate::model::{Loss, scan};
use crate::world::{Blow, Last, World};

/// Something is due, or going on.
fn is_busy(store: &Store) -> bool {
    let over = |job: &JobRecord| !matches!(job.state, JobState::Queued | JobState::Running);
    store.wants_flush() || store.wants_merge() || store.wants_publish() || !store.jobs().iter().all(over)
}

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
        let mut named = vec![newest];
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

    /// The sun shines.
    pub async fn rest(
        self: &Arc<World>,
        mut running: Arc<Running>,
        mut last: Option<Last>,
        zombies: Vec<Arc<Running>>,
    ) {
        self.tell(|| "the sun shines".to_owned());
        self.bucket.set(Weather::default());
        self.machines.iter().for_each(|machine| machine.link.cut(false));
        for zombie in &zombies {
            self.hush(zombie).await;
            let options = FlushOptions { clean: false, force: true };
            let refused = self.within("a zombie's flush", zombie.store.flush_with(options)).await;
            match refused {
                Err(FlushError::Unusable(why)) => zombie.judge(&why),
                other => panic!("life {} was taken over and goes on: {other:?}", zombie.life().number),
            }
            zombie.process.kill();
        }
        self.hush(&running).await;
        if !running.process.failed() {
            self.within("the work that is due", self.idle(&running)).await;
        }
        // The last life collects what earlier ones do not know any more that they uploaded.
        let machine = running.life().machine;
        if !running.process.failed() && self.random(2) == 0 {
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
        while is_busy(&running.store) {
            self.reactor.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that is due is done, and all garbage is gone.
    async fn settle(&self, running: &Running) {
        let store = &running.store;
        loop {
            let sequence = store.last_sequence();
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
        let process = self.machines[0].start(&self.reactor, 0);
        let (link, env) = (Arc::new(self.machines[0].link.clone()), Arc::clone(&process.env));
        let folder = self.machines[0].folder().with_file_name("elsewhere");
        let store = self.within("an opening", Store::open(self.config(&folder, true, 1), link, env, self.log())).await;
        let view = store.as_ref().unwrap().view().unwrap();
        assert!(scan(&view, view.read_sequence(), false) == expected, "the bucket has it all");
        drop((store, view));
        process.kill();
    }
}
