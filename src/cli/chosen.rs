//! Options that select steps, for the commands that take them.

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use crate::query::chosen::{Chosen, KINDS};

/// Which steps count. All but --except add up.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Steps {
    /// Only what this session did; several times for several
    #[arg(long, value_name = "SESSION", help_heading = "By who did it")]
    session: Vec<String>,
    /// Only what this step did
    #[arg(long, value_name = "STEP", help_heading = "By who did it", add = ArgValueCompleter::new(complete::step))]
    step: Vec<String>,
    /// Only what people, agents or scripts did
    #[arg(long, value_name = "WHO", help_heading = "By who did it", value_parser = KINDS)]
    by: Vec<String>,
    /// All of that, or everything, but what this step or session did
    #[arg(long, value_name = "STEP", help_heading = "By who did it", add = ArgValueCompleter::new(complete::step))]
    except: Vec<String>,
}

impl Steps {
    pub fn chosen(&self) -> Chosen {
        let chosen = Chosen {
            sessions: self.session.clone(),
            steps: self.step.clone(),
            by: self.by.clone(),
            except: self.except.clone(),
        };
        if !chosen.is_empty() {
            super::agents::load_or_warn();
        }
        chosen
    }
}
