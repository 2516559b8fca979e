//! The log in the bucket as a state machine: one writer, whoever takes over from him (and may crash while he does), and the
//! collection of what is in tables then. Each step is one request, or what its answer is followed by.
//!
//! Writes are numbered from 0; write n is the object of slot n. Its request may be sent twice, and either may arrive late.

/// Writes, and slots that the fence may get.
const WRITES: usize = 3;
const SLOTS: usize = WRITES + 1;
/// How often each write is sent.
const COPIES: u8 = 2;

/// Rules that can be left out, to see what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A write counts when all before it are there as well (store/shipping.rs, `State::answer`).
    pub in_order: bool,
    /// Whoever finds his object's name taken looks whose it is (wal/remote.rs, `ours`).
    pub looks_whose_it_is: bool,
    /// A takeover ends the log before it believes to have read all of it (wal/remote.rs, `Tail::fence`).
    pub fences: bool,
    /// Fences are never deleted (gc/pass.rs, `logs`).
    pub fences_stay: bool,
    /// What was replayed is in tables of a manifest before objects are deleted (store/open.rs, `open`).
    pub publishes: bool,
}

/// All of them.
pub const RULES: Rules =
    Rules { in_order: true, looks_whose_it_is: true, fences: true, fences_stay: true, publishes: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Free,
    Write,
    Fence,
}

/// What the writer knows of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Known {
    Nothing,
    /// It is there, and his.
    There,
}

/// How far whoever takes over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Taking {
    Not,
    /// His manifest is there; so many objects were replayed.
    Reading(u8),
    /// The one behind those was not there.
    AtTheEnd(u8),
    /// The log has ended behind so many.
    Replayed(u8),
    /// They are in tables that the newest manifest names.
    Published(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    slots: [Slot; SLOTS],
    /// Requests of the writer that were sent and have not arrived.
    on_their_way: [u8; WRITES],
    sent: [u8; WRITES],
    known: [Known; WRITES],
    fenced: bool,
    taking: Taking,
    crashes: u8,
}

pub fn start() -> State {
    State {
        slots: [Slot::Free; SLOTS],
        on_their_way: [0; WRITES],
        sent: [0; WRITES],
        known: [Known::Nothing; WRITES],
        fenced: false,
        taking: Taking::Not,
        crashes: 1,
    }
}

impl State {
    fn acknowledged(&self, rules: &Rules) -> Vec<usize> {
        let there = |n: &usize| self.known[*n] == Known::There;
        match rules.in_order {
            true => (0..WRITES).take_while(there).collect(),
            false => (0..WRITES).filter(there).collect(),
        }
    }

    /// What must never be.
    pub fn wrong(&self, rules: &Rules) -> Option<&'static str> {
        let (Taking::Replayed(end) | Taking::Published(end)) = self.taking else { return None };
        let lost = self.acknowledged(rules).into_iter().any(|n| n >= usize::from(end));
        lost.then_some("an acknowledged write was not replayed")
    }

    pub fn next(&self, rules: &Rules) -> Vec<(&'static str, State)> {
        let mut next = Vec::new();
        self.writes(rules, &mut next);
        self.takes_over(rules, &mut next);
        next
    }

    fn writes(&self, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        for n in 0..WRITES {
            // Several are on their way at a time; one is sent again when its answer was lost.
            if !self.fenced && self.sent[n] < COPIES && (n == 0 || self.sent[n - 1] > 0) {
                let mut to = *self;
                to.sent[n] += 1;
                to.on_their_way[n] += 1;
                next.push(("the writer asks for an object", to));
            }
            if self.on_their_way[n] == 0 {
                continue;
            }
            let mut arrived = *self;
            arrived.on_their_way[n] -= 1;
            let free = self.slots[n] == Slot::Free;
            if free {
                arrived.slots[n] = Slot::Write;
            }
            next.push(("it arrives, and the answer is lost", arrived));
            let mut answered = arrived;
            match arrived.slots[n] {
                Slot::Fence if rules.looks_whose_it_is => answered.fenced = true,
                _ => answered.known[n] = Known::There,
            }
            next.push(("it arrives and is answered", answered));
        }
    }

    fn takes_over(&self, rules: &Rules, next: &mut Vec<(&'static str, State)>) {
        let mut step = |what, taking, change: &dyn Fn(&mut State)| {
            let mut to = State { taking, ..*self };
            change(&mut to);
            next.push((what, to));
        };
        match self.taking {
            Taking::Not => step("somebody takes over", Taking::Reading(0), &|_| {}),
            Taking::Reading(n) => match self.slots[usize::from(n)] {
                Slot::Write => step("an object is replayed", Taking::Reading(n + 1), &|_| {}),
                Slot::Fence => step("the fence is found", Taking::Replayed(n), &|_| {}),
                Slot::Free if rules.fences => step("the end is found", Taking::AtTheEnd(n), &|_| {}),
                Slot::Free => step("the end is believed", Taking::Replayed(n), &|_| {}),
            },
            Taking::AtTheEnd(n) => match self.slots[usize::from(n)] {
                Slot::Free => {
                    step("the fence is made", Taking::Replayed(n), &|to| to.slots[usize::from(n)] = Slot::Fence);
                    step("the answer to that is lost", Taking::AtTheEnd(n), &|to| {
                        to.slots[usize::from(n)] = Slot::Fence;
                    });
                }
                _ => step("something is there now", Taking::Reading(n), &|_| {}),
            },
            Taking::Replayed(n) => {
                step("what was replayed is published", Taking::Published(n), &|_| {});
                if !rules.publishes {
                    self.collects(rules, n, &mut step);
                }
            }
            Taking::Published(n) => self.collects(rules, n, &mut step),
        }
        // Before it is published, everything is done again by the next one.
        if self.crashes > 0 && !matches!(self.taking, Taking::Not | Taking::Published(_)) {
            step("and crashes", Taking::Not, &|to| to.crashes -= 1);
        }
    }

    fn collects(&self, rules: &Rules, end: u8, step: &mut impl FnMut(&'static str, Taking, &dyn Fn(&mut State))) {
        for (at, slot) in self.slots.iter().enumerate() {
            let goes = match slot {
                Slot::Free => false,
                Slot::Write => true,
                Slot::Fence => !rules.fences_stay,
            };
            if goes {
                let taking = if rules.publishes { self.taking } else { Taking::Replayed(end) };
                step("an object is collected", taking, &|to| to.slots[at] = Slot::Free);
            }
        }
    }
}
