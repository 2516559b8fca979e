//! Somebody on another machine who reads the bucket while all that happens: what it shows was there once, in full, and whatever
//! becomes of the writers stays.

use std::sync::Arc;

use lsmstore::{FollowError, Follower, FollowerConfig, Snapshot, StorageError};

use crate::actors::Running;
use crate::model::{Content, Loss, scan};
use crate::tally::{self, Event};
use crate::world::World;

/// An error must have a reason that the simulation knows.
fn judge(error: &FollowError) {
    match error {
        FollowError::Storage(StorageError::Object { .. }) => {}
        FollowError::NoStore { .. } | FollowError::Collected { .. } => {}
        error => panic!("a follower: {error}"),
    }
}

async fn content(snapshot: &Snapshot, forward: bool) -> Result<Content, FollowError> {
    let mut found = Content::new();
    let mut scan = snapshot.scan_prefix(b"");
    if !forward {
        scan = scan.reverse();
    }
    while let Some((key, value)) = scan.next().await? {
        assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "a key came twice");
    }
    Ok(found)
}

impl World {
    /// Looks again and again, sometimes as somebody new.
    pub async fn follow(self: Arc<World>) {
        let process = self.watcher.start(&self.reactor, 0, None);
        let mut followed: Option<Follower> = None;
        loop {
            self.sleep(900).await;
            let follower = match followed.take().filter(|_| self.random(8) > 0) {
                Some(follower) => follower,
                None => {
                    let config = FollowerConfig::new("sim").cache_bytes(4096 << self.random(8));
                    let link = Arc::new(self.watcher.link.clone());
                    match Follower::open(config, link, Arc::clone(&process.env) as _).await {
                        Ok(follower) => follower,
                        Err(error) => {
                            judge(&error);
                            continue;
                        }
                    }
                }
            };
            if let Err(error) = follower.refresh().await {
                judge(&error);
            }
            let snapshot = follower.snapshot();
            match content(&snapshot, self.random(2) == 0).await {
                Ok(found) => self.compare(&snapshot, &found),
                Err(error) => judge(&error),
            }
            followed = Some(follower);
        }
    }

    /// What a follower has seen is in the bucket, so that it is lost with nobody's disk.
    fn compare(&self, snapshot: &Snapshot, found: &Content) {
        let newest: Option<Arc<Running>> = self.newest.lock().unwrap().clone();
        let Some(running) = newest.filter(|running| running.store.epoch() == snapshot.manifest().epoch) else { return };
        let sequence = snapshot.sequence();
        running.life().promise(Loss::Disk, sequence);
        let Ok(view) = running.store.view() else { return };
        if view.floor() <= sequence {
            assert!(scan(&view, sequence, true) == *found, "a follower sees something else at {sequence}");
            tally::count(Event::Followed);
            crate::tell(&self.reactor, || format!("a follower sees what there was at {sequence}"));
        }
    }
}
