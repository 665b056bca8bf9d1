//! One run: the same operations on two systems, compared step by step.

use std::collections::VecDeque;

use regentfs::types::Errno;

use super::compare::{Compare, seek_is_true};
use super::random::{Random, SLOTS};
use super::system::{Op, System, Value};

/// How a run goes.
pub struct Plan {
    pub seed: u64,
    pub steps: u64,
    /// Compare the whole trees every so many steps, on average.
    pub compare_every: u64,
    pub reopen_every: u64,
    pub shrink_every: u64,
}

struct Run<'a> {
    plan: &'a Plan,
    right: &'a mut dyn System,
    tested: &'a mut dyn System,
    compare: Compare,
    trace: VecDeque<String>,
}

/// Runs `plan` on a system that is known to be right and on one under test, which show the same at first.
///
/// # Panics
/// With the operations so far, when they differ.
pub fn run(plan: &Plan, right: &mut dyn System, tested: &mut dyn System) {
    let compare = Compare::new(regentfs::clock::now());
    let mut run = Run { plan, right, tested, compare, trace: VecDeque::new() };
    let mut random = Random::new(plan.seed);
    run.trees(&mut random);
    for step in 1..=plan.steps {
        if random.rng.one_in(plan.reopen_every) {
            run.reopen();
        }
        if random.rng.one_in(plan.shrink_every) {
            run.note(format!("{step}: shrink"));
            run.tested.shrink(random.rng.next());
        }
        if random.rng.one_in(plan.compare_every) {
            run.trees(&mut random);
        }
        let op = random.next();
        run.note(format!("{step}: {op:?}"));
        run.step(&op);
    }
    for slot in 0..SLOTS as usize {
        run.step(&Op::Close { slot });
    }
    run.trees(&mut random);
    run.reopen();
    run.trees(&mut random);
}

impl Run<'_> {
    fn note(&mut self, line: String) {
        self.trace.push_back(line);
        if self.trace.len() > 400 {
            self.trace.pop_front();
        }
    }

    fn fail(&self, what: &str) -> ! {
        let trace: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        panic!(
            "seed {} on {}: {what}\nagain: REGENTFS_MODEL_SEED={} REGENTFS_MODEL_STEPS={}\n{}",
            self.plan.seed,
            self.tested.name(),
            self.plan.seed,
            self.plan.steps,
            trace.join("\n")
        );
    }

    fn step(&mut self, op: &Op) {
        let right = self.right.apply(op);
        let found = self.tested.apply(op);
        if let Some(last) = self.trace.back_mut() {
            match &right {
                Ok(_) => last.push_str(" = ok"),
                Err(e) => last.push_str(&format!(" = {e}")),
            }
        }
        if let Some(difference) = self.compare.answers(op, &right, &found) {
            self.fail(&difference);
        }
        if let Op::Seek { slot, offset, data } = *op {
            let whole = Op::Read { slot, offset: 0, len: 4 << 20 };
            if let Ok(Value::Bytes(bytes)) = self.right.apply(&whole)
                && let Err(why) = seek_is_true(&bytes, offset, data, &found)
            {
                self.fail(&why);
            }
        }
        // A change shows in the attributes at once.
        if let Op::Write { slot, .. }
        | Op::Truncate { slot, .. }
        | Op::Allocate { slot, .. }
        | Op::Copy { to: slot, .. } = *op
        {
            self.look(&Op::StatOpen { slot });
        }
    }

    fn look(&mut self, op: &Op) {
        let (right, found) = (self.right.apply(op), self.tested.apply(op));
        if matches!(right, Err(Errno::EBADF)) {
            return;
        }
        if let Some(difference) = self.compare.answers(op, &right, &found) {
            self.fail(&difference);
        }
    }

    fn trees(&mut self, random: &mut Random) {
        let (right, found) = (self.right.tree(), self.tested.tree());
        let lines = self.compare.trees(&right, &found);
        if !lines.is_empty() {
            self.fail(&format!("{} differences\n{}", lines.len(), lines.join("\n")));
        }
        random.look_at(&right);
    }

    fn reopen(&mut self) {
        self.note("reopen".to_owned());
        self.right.reopen();
        self.tested.reopen();
        let problems = self.tested.problems();
        if !problems.is_empty() {
            self.fail(&format!("the store is not whole\n{}", problems.join("\n")));
        }
    }
}
