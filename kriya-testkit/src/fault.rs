//! How something is to fail: what kind of failure, in which operations, how often.
//!
//! A fault is one line of text: its kind, then `ops=put,get`, `every=5`, `chance=0.2`, `seed=7`, `in=manifest/`, `ms=300`
//! in any order. Without `ops` it concerns all operations, without `every` and `chance` it strikes always.

use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a request does, as permissions are given for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writes an object, or a part of one.
    Put,
    /// Reads an object, or asks about one.
    Get,
    /// Lists objects.
    List,
    /// Deletes objects.
    Delete,
}

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connections are refused.
    Down,
    /// Requests are taken and never answered.
    Silent,
    /// Requests wait this long.
    Slow(Duration),
    /// 503, and nothing was done.
    Before,
    /// 500, although it was done.
    After,
    /// 409 to a PUT that has a condition, and nothing was done.
    Conflict,
    /// The answer's body ends in the middle.
    Cut,
    /// The connection breaks in the middle of the request, and nothing was done.
    Break,
    /// 403.
    Deny,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// Each time.
    Always,
    /// Each n-th time.
    Every(u64),
    /// With this probability, from this seed.
    Chance(f64, u64),
}

/// A way to fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To which operations; empty: to all.
    pub operations: Vec<Operation>,
    /// Only to requests whose path contains this; empty: to all.
    pub within: String,
    /// How often.
    pub when: When,
}

impl Fault {
    /// Strikes each request.
    pub fn always(kind: Kind) -> Fault {
        Fault { kind, operations: Vec::new(), within: String::new(), when: When::Always }
    }

    /// Only these operations.
    #[must_use]
    pub fn on(mut self, operations: &[Operation]) -> Fault {
        self.operations = operations.to_vec();
        self
    }

    /// Only requests whose path contains `text`.
    #[must_use]
    pub fn within(mut self, text: &str) -> Fault {
        text.clone_into(&mut self.within);
        self
    }

    /// Only each n-th of them.
    #[must_use]
    pub fn every(mut self, n: u64) -> Fault {
        self.when = When::Every(n.max(1));
        self
    }

    /// Only with this probability.
    #[must_use]
    pub fn chance(mut self, probability: f64, seed: u64) -> Fault {
        self.when = When::Chance(probability.clamp(0.0, 1.0), seed);
        self
    }

    fn concerns(&self, operation: Operation, path: &str) -> bool {
        (self.operations.is_empty() || self.operations.contains(&operation)) && path.contains(&self.within)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(line: &str) -> Result<Fault, String> {
        let mut words = line.split_whitespace();
        let kind = words.next().ok_or("a fault begins with its kind")?;
        let (mut fault, mut ms, mut seed) = (Fault::always(Kind::Before), 500, 1);
        let mut chance = None;
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected name=value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{word}: {error}"));
            match name {
                "ops" => fault.operations = value.split(',').map(operation).collect::<Result<_, _>>()?,
                "in" => value.clone_into(&mut fault.within),
                "every" => fault.when = When::Every(number()?.max(1)),
                "chance" => chance = Some(value.parse::<f64>().map_err(|error| format!("{word}: {error}"))?),
                "seed" => seed = number()?,
                "ms" => ms = number()?,
                _ => return Err(format!("{word}: a fault has ops, in, every, chance, seed, ms")),
            }
        }
        if let Some(chance) = chance {
            fault = fault.chance(chance, seed);
        }
        fault.kind = match kind {
            "down" => Kind::Down,
            "silent" => Kind::Silent,
            "slow" => Kind::Slow(Duration::from_millis(ms)),
            "before" => Kind::Before,
            "after" => Kind::After,
            "conflict" => Kind::Conflict,
            "cut" => Kind::Cut,
            "break" => Kind::Break,
            "deny" => Kind::Deny,
            _ => return Err(format!("{kind} is no kind of fault")),
        };
        Ok(fault)
    }
}

fn operation(name: &str) -> Result<Operation, String> {
    match name {
        "put" => Ok(Operation::Put),
        "get" => Ok(Operation::Get),
        "list" => Ok(Operation::List),
        "delete" => Ok(Operation::Delete),
        _ => Err(format!("{name}: operations are put, get, list, delete")),
    }
}

/// Faults that are armed, each with its count and its random numbers.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    armed: Vec<Armed>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
    random: StdRng,
}

impl Plan {
    pub(crate) fn new(faults: Vec<Fault>) -> Plan {
        let arm = |fault: Fault| {
            let seed = if let When::Chance(_, seed) = fault.when { seed } else { 0 };
            Armed { fault, seen: 0, random: StdRng::seed_from_u64(seed) }
        };
        Plan { armed: faults.into_iter().map(arm).collect() }
    }

    #[cfg(feature = "s3")]
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.armed.iter().map(|armed| &armed.fault)
    }

    /// The kinds of failure that strike this request.
    pub(crate) fn strike(&mut self, operation: Operation, path: &str) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for armed in self.armed.iter_mut().filter(|armed| armed.fault.concerns(operation, path)) {
            armed.seen += 1;
            let strikes = match armed.fault.when {
                When::Always => true,
                When::Every(n) => armed.seen.is_multiple_of(n),
                When::Chance(probability, _) => armed.random.random_bool(probability),
            };
            if strikes {
                kinds.push(armed.fault.kind);
            }
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_from_its_line() {
        let fault = Fault::always(Kind::After).on(&[Operation::Put, Operation::Get]).within("sst/").every(3);
        assert_eq!("after ops=put,get in=sst/ every=3".parse(), Ok(fault));
        assert_eq!("slow ms=20".parse(), Ok(Fault::always(Kind::Slow(Duration::from_millis(20)))));
        assert_eq!("deny chance=0.5 seed=9".parse(), Ok(Fault::always(Kind::Deny).chance(0.5, 9)));
        assert!("explode".parse::<Fault>().is_err());
        assert!("down ops=fly".parse::<Fault>().is_err());
    }

    #[test]
    fn every_third_and_a_seeded_chance_strike_as_they_say() {
        let mut plan = Plan::new(vec![Fault::always(Kind::Before).every(3)]);
        let struck: Vec<bool> = (0..6).map(|_| !plan.strike(Operation::Get, "/b/k").is_empty()).collect();
        assert_eq!(struck, [false, false, true, false, false, true]);
        let row = || {
            let mut plan = Plan::new(vec![Fault::always(Kind::Before).chance(0.5, 7)]);
            (0..64).map(|_| !plan.strike(Operation::Get, "/b/k").is_empty()).collect::<Vec<_>>()
        };
        let first = row();
        assert_eq!(first, row());
        assert!(first.contains(&true) && first.contains(&false));
    }
}
