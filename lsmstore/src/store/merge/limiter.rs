//! The rate of merges: a token bucket for the bytes that they read and write.
//!
//! Flushes take no tokens, and a merge whose rate is limited gives way to them: the disk is theirs first.

use std::sync::Mutex;
use std::time::Duration;

use crate::reactor::Reactor;
use crate::store::jobs::{Jobs, Work};
use crate::store::lock;

/// How long a merge waits before it looks again whether it is to go on.
const SLICE: Duration = Duration::from_millis(5);
/// How long it waits for a flush at most, each time it asks for tokens.
const GIVES_WAY: Duration = Duration::from_millis(100);
/// What the bucket holds, as time in which it fills.
const BURST: f64 = 0.1;

/// Tokens are bytes. There may be fewer than none: whoever took them waits until they have come in.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// Takes tokens; how long to wait for them.
    fn take(&mut self, now: Duration, bytes: u64, rate: f64) -> Duration {
        let came = now.saturating_sub(self.at).as_secs_f64() * rate;
        self.at = now;
        self.tokens = (self.tokens + came).min(BURST * rate) - bytes as f64;
        Duration::from_secs_f64((-self.tokens / rate).max(0.0))
    }
}

/// Limits all merges of a store together.
#[derive(Debug)]
pub(in crate::store) struct Limiter {
    /// Bytes a second; none for no limit.
    rate: Option<f64>,
    bucket: Mutex<Bucket>,
}

impl Limiter {
    pub(in crate::store) fn new(rate: Option<u64>) -> Limiter {
        let rate = rate.map(|rate| rate.max(1) as f64);
        Limiter { rate, bucket: Mutex::new(Bucket { tokens: 0.0, at: Duration::ZERO }) }
    }

    /// Waits until so many bytes may be read or written, or the merge is not to go on.
    pub(super) fn take(&self, reactor: &dyn Reactor, jobs: &Jobs, bytes: u64, goes_on: impl Fn() -> bool) {
        let Some(rate) = self.rate else { return };
        let mut left = lock(&self.bucket).take(reactor.monotonic(), bytes, rate);
        let mut gives_way = GIVES_WAY;
        while goes_on() {
            let flushing = !gives_way.is_zero() && jobs.any(Work::Flush);
            if left.is_zero() && !flushing {
                return;
            }
            let slice = if left.is_zero() { SLICE } else { left.min(SLICE) };
            reactor.pause(slice);
            left = left.saturating_sub(slice);
            if flushing {
                gives_way = gives_way.saturating_sub(slice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_time_no_more_goes_through_than_the_rate_and_one_bucket() {
        let rate = 1000.0;
        let mut bucket = Bucket { tokens: 0.0, at: Duration::ZERO };
        let (mut now, mut taken) = (Duration::from_secs(7), 0);
        let start = now;
        for turn in 0..500_u64 {
            let bytes = 1 + turn * 37 % 300;
            now += bucket.take(now, bytes, rate);
            taken += bytes;
            assert!(taken as f64 <= BURST * rate + (now - start).as_secs_f64() * rate + 1.0, "turn {turn}");
            if turn % 50 == 0 {
                // What was not used is not saved up beyond the bucket.
                now += Duration::from_secs(100);
                taken = 0;
                assert_eq!(bucket.take(now, (BURST * rate) as u64, rate), Duration::ZERO);
                bucket = Bucket { tokens: 0.0, at: now };
            }
        }
    }

    #[test]
    fn a_steady_taker_gets_the_rate() {
        let mut bucket = Bucket { tokens: 0.0, at: Duration::ZERO };
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            now += bucket.take(now, 1000, 10_000.0);
        }
        let seconds = now.as_secs_f64();
        assert!((9.8..=10.0).contains(&seconds), "{seconds}");
    }
}
