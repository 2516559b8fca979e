//! The log that is kept for a store: told in the status, and again and again while nobody can serve it, for nobody lets it
//! go meanwhile, and a full disk stops the whole server.

use std::time::{Duration, Instant};

use crate::worker::host::{Host, Level};

/// From the first reminder to the next, doubled up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How much of the log is kept, as a sentence without an end.
pub(crate) fn told(host: &dyn Host) -> String {
    let (kept, now) = match (host.kept(), host.position()) {
        (Ok(kept), Ok(now)) => (kept, now),
        (Err(error), _) | (_, Err(error)) => return format!("unknown: {error}"),
    };
    match (kept.lost, kept.from) {
        (true, _) => "LOST: replication slot lsm_s3 was invalidated, for more write-ahead log had piled up than \
                      max_slot_wal_keep_size allows; the next flush makes it anew"
            .to_owned(),
        (false, None) => "nothing is kept: there is no replication slot lsm_s3".to_owned(),
        (false, Some(from)) => {
            format!("replication slot lsm_s3 keeps {} MB of write-ahead log", now.saturating_sub(from) >> 20)
        }
    }
}

/// Says it again when it is time.
pub(crate) struct Reminder {
    next: Instant,
    pause: Duration,
}

impl Reminder {
    pub(crate) fn new(now: Instant) -> Reminder {
        Reminder { next: now + AGAIN.0, pause: AGAIN.0 }
    }

    /// Whether it is time to say something; if so, the next time is later.
    fn due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.pause = (self.pause * 2).min(AGAIN.1);
        self.next = now + self.pause;
        true
    }

    /// Warns of what nobody does anything about.
    pub(crate) fn remind(&mut self, host: &dyn Host, why: &str, hint: &str) {
        if self.due(Instant::now()) {
            host.report(Level::Warning, &format!("still: {}", warning(host, why, hint)));
        }
    }
}

/// What cannot be used, what that costs, and what to do.
pub(crate) fn warning(host: &dyn Host, why: &str, hint: &str) -> String {
    format!(
        "{why}. Meanwhile {}. {hint} If the store is given up for good, SELECT pg_drop_replication_slot('lsm_s3') lets \
         the log go",
        told(host)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_come_after_a_minute_and_then_ever_more_rarely_up_to_an_hour() {
        let start = Instant::now();
        let mut reminder = Reminder::new(start);
        let told: Vec<u64> = (0..20_000).filter(|second| reminder.due(start + Duration::from_secs(*second))).collect();
        assert_eq!(told, [60, 180, 420, 900, 1860, 3780, 7380, 10_980, 14_580, 18_180]);
    }
}
