//! Which steps a command is about, for the commands that will take them.
//!
//! Not offered yet: what was applied before can still be brought over a second time (`timeline/selected.rs`).

use crate::query::chosen::Chosen;

/// Which steps count. All but `except` add up.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Steps {
    /// Only what this session did.
    #[arg(skip)]
    session: Vec<String>,
    /// Only what this step did.
    #[arg(skip)]
    step: Vec<String>,
    /// Only what people, agents or scripts did.
    #[arg(skip)]
    by: Vec<String>,
    /// All of that, or everything, but what this step or session did.
    #[arg(skip)]
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
