//! Who uses a bucket that several servers can reach: an object that its worker rewrites every few seconds.
//!
//! A manifest of this server's history says that the bucket may be ours; a copy of the data directory has the same
//! history. So whoever finds another holder's lease waits for it to move, and while it moves leaves the bucket alone.
//! Clocks are not compared. A lease is no lock: what keeps two writers apart in the end is the manifest's epoch.
//!
//! The holder is a place: host and folder. A worker that comes back to its folder does not wait.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::codec;
use crate::worker::engine::{Ending, Engine, Signals};
use crate::worker::host::{Host, Level};
use crate::worker::startup::StartError;

/// Longest interval that is believed of another holder.
const LONGEST: u64 = 60_000;
const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Lease {
    /// The folder, in a way that a copy of it does not share.
    holder: String,
    /// For humans.
    place: String,
    /// Counts up while the holder lives.
    beat: u64,
    /// How often it does so, in milliseconds.
    interval: u64,
}

/// The lease of a bucket, as this worker would hold it.
pub(crate) struct Tenancy {
    objects: Arc<dyn ObjectStore>,
    object: ObjectPath,
    mine: Lease,
    interval: Duration,
}

impl Tenancy {
    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        prefix: &str,
        dir: &Path,
        interval: Duration,
    ) -> std::io::Result<Tenancy> {
        let dir = std::fs::canonicalize(dir)?;
        let folder = std::fs::metadata(&dir)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let object = match prefix {
            "" => ObjectPath::from("owner"),
            prefix => ObjectPath::from(format!("{prefix}/owner")),
        };
        let mine = Lease {
            holder: format!("{host} {}:{}", folder.dev(), folder.ino()),
            place: format!("{} on {host}", dir.display()),
            beat: 0,
            interval: u64::try_from(interval.as_millis()).unwrap_or(LONGEST),
        };
        Ok(Tenancy { objects, object, mine, interval })
    }

    async fn read(&self) -> Result<Option<Lease>, object_store::Error> {
        let bytes = match self.objects.get(&self.object).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // One that cannot be read holds nobody off: it is a courtesy, not the fence.
        Ok(match bytes.split_first() {
            Some((&VERSION, body)) => codec::decode("lease", body).ok(),
            _ => None,
        })
    }

    /// Returns once nobody else seems to use the bucket.
    pub(crate) fn wait_for_it(
        &self,
        host: &dyn Host,
        runtime: &tokio::runtime::Handle,
        signals: &Signals,
    ) -> Result<(), StartError> {
        let read =
            || runtime.block_on(self.read()).map_err(|error| StartError::unavailable("reading the lease", &error));
        let Some(found) = read()?.filter(|found| found.holder != self.mine.holder) else { return Ok(()) };
        let message = format!("the bucket was used from {}; waiting whether it still is", found.place);
        host.report(Level::Log, &message);
        let patience = Duration::from_millis(found.interval.min(LONGEST) * 5 / 2);
        let step = Duration::from_millis(found.interval.min(LONGEST) / 4).max(Duration::from_millis(10));
        let mut waited = Duration::ZERO;
        while waited < patience {
            signals.ending.wait(step);
            if signals.ending() != Ending::No {
                return Err(StartError::Failed("the worker was stopped while it waited for the bucket".into()));
            }
            waited += step;
            match read()? {
                Some(now) if now.holder == found.holder && now.beat == found.beat => {}
                Some(now) if now.holder != self.mine.holder => {
                    return Err(StartError::refused(
                        format!("the bucket is in use by the server at {}", now.place),
                        "Two servers must not share a bucket and a prefix: set lsm_s3.prefix to another one here, or stop \
                         the other server. lsm_s3_takeover() takes the bucket away from it.",
                    ));
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Leaves the bucket to whoever comes next.
    pub(crate) fn give_up(&self, runtime: &tokio::runtime::Handle) {
        let delete = async { tokio::time::timeout(self.interval, self.objects.delete(&self.object)).await };
        // One that stays is waited for by the next holder.
        let _ = runtime.block_on(delete);
    }
}

/// Says that this worker uses the bucket, again and again until it ends.
pub(crate) fn keep_forever(engine: &Engine) {
    let Some(tenancy) = &engine.tenancy else { return };
    let mut lease = tenancy.mine.clone();
    while engine.signals.working() {
        lease.beat += 1;
        let mut bytes = vec![VERSION];
        codec::encode_into(&lease, &mut bytes);
        // Whatever fails here fails elsewhere as well, and is told there.
        let _ = engine.unless_ending(async { tenancy.objects.put(&tenancy.object, bytes.into()).await });
        engine.signals.tenancy.wait(tenancy.interval);
    }
}
