//! R27 for splits: random interleavings, and what must hold in every one of them.

use super::*;
use crate::s3::error::ErrorCode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const RUNS: u64 = 10_000;

type Machine = Split<u32, &'static str>;
type Did = Effect<u32, &'static str>;

fn error() -> S3Error {
    S3Error::new(ErrorCode::SlowDown, "")
}

/// What is under way, as the supervisor would have it.
#[derive(Debug, Default)]
struct World {
    pending: Vec<Pending>,
    created: bool,
    sent: Vec<u32>,
    acknowledged: Vec<u32>,
    replied: Option<bool>,
    completed: bool,
    complete_sent: bool,
    aborts: u32,
    ended: Option<bool>,
    cancelled: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Pending {
    Record,
    Create,
    Probe,
    Take(u32),
    Part(u32),
    Put,
    Complete,
    Abort,
}

impl World {
    fn apply(&mut self, shape: Shape, effects: Vec<Did>) {
        for effect in effects {
            match effect {
                Effect::Record => self.pending.push(Pending::Record),
                Effect::Create => self.pending.push(Pending::Create),
                Effect::Probe => self.pending.push(Pending::Probe),
                Effect::SendProbed => {
                    assert!(self.created);
                    self.sent.push(1);
                    self.pending.push(Pending::Part(1));
                }
                Effect::Take(number) => {
                    assert!(self.created);
                    let taking = |one: &Pending| matches!(one, Pending::Take(_));
                    assert!(!self.pending.iter().any(taking), "one part is taken at a time");
                    self.sent.push(number);
                    self.pending.push(Pending::Part(number));
                    if !matches!(shape, Shape::Known(parts) if number == parts) {
                        self.pending.push(Pending::Take(number));
                    }
                }
                Effect::Put => self.pending.push(Pending::Put),
                Effect::Complete(parts) => {
                    let numbers: Vec<u32> = parts.iter().map(|(number, _)| *number).collect();
                    assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "{numbers:?}");
                    assert_eq!(numbers.len(), self.acknowledged.len(), "every part, once");
                    assert_eq!(self.sent.len(), numbers.len());
                    self.complete_sent = true;
                    self.pending.push(Pending::Complete);
                }
                Effect::Cancel => {
                    self.cancelled = true;
                    let ours = |one: &Pending| matches!(one, Pending::Take(_) | Pending::Part(_));
                    self.pending.retain(|one| !ours(one));
                }
                Effect::Abort => {
                    assert!(self.created);
                    self.aborts += 1;
                    self.pending.push(Pending::Abort);
                }
                Effect::Reply(result) => {
                    assert_eq!(self.replied, None, "one answer");
                    self.replied = Some(result.is_ok());
                }
                Effect::End { clean } => {
                    assert_eq!(self.ended, None);
                    self.ended = Some(clean);
                }
            }
        }
    }

    fn parts_in_flight(&self) -> usize {
        self.pending.iter().filter(|one| matches!(one, Pending::Part(_))).count()
    }
}

fn run(random: &mut StdRng) -> (bool, u32) {
    let concurrent = random.random_range(1..5);
    let total: u32 = random.random_range(1..12);
    let shape = if random.random_bool(0.5) { Shape::Known(total.max(2)) } else { Shape::Unknown };
    let faults = if random.random_bool(0.5) { 0.0 } else { 0.08 };
    let (mut machine, effects) = Machine::begin(shape, concurrent);
    let mut world = World::default();
    world.apply(shape, effects);
    while !world.pending.is_empty() {
        let one = world.pending.remove(random.random_range(0..world.pending.len()));
        let ok = !random.random_bool(faults);
        let event = match one {
            Pending::Record => Event::Recorded(if ok { Ok(()) } else { Err(error()) }),
            Pending::Create => {
                world.created |= ok;
                Event::Created(if ok { Ok(()) } else { Err(error()) })
            }
            Pending::Probe if ok => Event::Taken { last: total == 1 },
            Pending::Probe => Event::ProbeFailed(error()),
            Pending::Take(number) if ok => {
                Event::Taken { last: shape == Shape::Unknown && number == total }
            }
            // The part that takes it fails.
            Pending::Take(number) => {
                world.pending.retain(|other| *other != Pending::Part(number));
                Event::PartEnded(number, Err(error()))
            }
            Pending::Part(number) => {
                // A part that is still being taken cannot have been answered, but for the last one
                // of an unknown length, of which nobody knows yet that it was.
                let last = shape == Shape::Unknown && number == total;
                if world.pending.contains(&Pending::Take(number)) && !last {
                    world.pending.push(one);
                    continue;
                }
                if ok {
                    world.acknowledged.push(number);
                }
                Event::PartEnded(number, if ok { Ok(number) } else { Err(error()) })
            }
            Pending::Put => Event::PutEnded(if ok { Ok("put") } else { Err(error()) }),
            Pending::Complete => {
                world.completed |= ok;
                Event::Completed(if ok { Ok("done") } else { Err(error()) })
            }
            Pending::Abort => Event::Aborted(if ok { Ok(()) } else { Err(error()) }),
        };
        let effects = machine.step(event);
        world.apply(shape, effects);
        assert!(world.parts_in_flight() <= concurrent, "{world:?}");
    }
    assert!(machine.is_ended(), "{machine:?} {world:?}");
    let replied = world.replied.unwrap();
    let clean = world.ended.unwrap();
    if world.created {
        assert_eq!(replied, world.completed, "a success is a completed upload, and no other");
        assert_eq!(world.aborts, u32::from(!world.completed), "what is not completed is aborted");
    }
    if faults == 0.0 {
        assert!(replied && clean);
    }
    (replied, world.aborts)
}

/// R27: "10,000 random runs with injected faults against a reference model, 0 divergence".
#[test]
fn no_interleaving_breaks_a_promise() {
    let (mut succeeded, mut aborted) = (0, 0);
    for seed in 0..RUNS {
        let (replied, aborts) = run(&mut StdRng::seed_from_u64(seed));
        succeeded += u32::from(replied);
        aborted += aborts;
    }
    // Both kinds of end are well represented, or the runs show nothing.
    assert!(succeeded > 5_000 && aborted > 1_000, "{succeeded} {aborted}");
}

/// "The next part streaming while the last ones await their answer."
#[test]
fn the_next_part_is_begun_when_the_last_was_taken() {
    let (mut machine, effects) = Machine::begin(Shape::Known(3), 2);
    assert_eq!(effects, [Effect::Record]);
    assert_eq!(machine.step(Event::Recorded(Ok(()))), [Effect::Create]);
    assert_eq!(machine.step(Event::Created(Ok(()))), [Effect::Take(1)]);
    assert_eq!(machine.step(Event::Taken { last: false }), [Effect::Take(2)]);
    // Two are in flight: the third waits for an answer.
    assert_eq!(machine.step(Event::Taken { last: false }), []);
    assert_eq!(machine.step(Event::PartEnded(2, Ok(2))), [Effect::Take(3)]);
    assert_eq!(machine.step(Event::PartEnded(3, Ok(3))), []);
    let complete = machine.step(Event::PartEnded(1, Ok(1)));
    assert_eq!(complete, [Effect::Complete(vec![(1, 1), (2, 2), (3, 3)])]);
    let end = machine.step(Event::Completed(Ok("done")));
    assert_eq!(end, [Effect::Reply(Ok("done")), Effect::End { clean: true }]);
}

/// "Under 5 MiB or empty: a PutObject": whatever ends within its first part.
#[test]
fn a_body_that_ends_within_its_first_part_is_one_put() {
    let (mut machine, effects) = Machine::begin(Shape::Unknown, 4);
    assert_eq!(effects, [Effect::Probe]);
    assert_eq!(machine.step(Event::Taken { last: true }), [Effect::Put]);
    let end = machine.step(Event::PutEnded(Ok("put")));
    assert_eq!(end, [Effect::Reply(Ok("put")), Effect::End { clean: true }]);
}
