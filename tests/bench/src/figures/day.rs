//! A day at ten thousand, with an outage of the provider.

use serde_json::json;

use super::World;
use crate::Failed;
use crate::day::{self, PROVIDER_QPS, Plan};
use crate::report::{Goal, now, say};
use crate::stats::{float, rounded};

impl World {
    pub(super) async fn day(&self) -> Result<(), Failed> {
        let plan = self.size.day;
        let hours = plan.lasts / 3600;
        say(&format!("{hours} hours with {} users and {} apps, in memory", plan.users, plan.apps));
        let began = now();
        // A thread of its own: the time is its runtime's.
        let day = tokio::task::spawn_blocking(move || day::live(plan)).await.map_err(Failed::new)??;
        let count = plan.users + plan.apps;
        let parameters = json!({"plan": plan, "day": day, "took_s": rounded(began.elapsed().as_secs_f64())});
        if day.targets < count {
            return Err(Failed::new(format!(
                "{} of {count} targets are there after {hours} hours",
                day.targets
            )));
        }
        let name = format!("{hours} hours at {count}: seconds with an expired token");
        self.figure(&name, day.expired_seconds, "s", None, Goal::AtMost(0.0), parameters);
        let name = format!("{hours} hours at {count}: most requests to the provider in a second");
        let parameters =
            json!({"provider_qps": PROVIDER_QPS, "busiest_minute_per_second": rounded(day.busiest_minute)});
        self.figure(
            &name,
            float(day.busiest_second),
            "requests",
            None,
            Goal::AtMost(PROVIDER_QPS),
            parameters,
        );
        Ok(())
    }
}

/// Entra's tokens live 60 to 90 minutes: "Access tokens in the Microsoft identity platform", token lifetime.
pub(super) const FULL: Plan =
    Plan { users: 5_000, apps: 5_000, lasts: 24 * 3600, outage: (12 * 3600, 1800), life: (3600, 5399) };
pub(super) const SHORT: Plan =
    Plan { users: 10, apps: 10, lasts: 3 * 3600, outage: (3600, 1800), life: (3600, 5399) };

#[test]
fn no_token_expires_on_a_short_day_with_an_outage() {
    let day = day::live(SHORT).unwrap();
    assert_eq!(day.targets, SHORT.users + SHORT.apps);
    assert!(day.refused > 0, "there was no outage");
    assert_eq!((day.expired_tokens, day.forbidden), (0, 0));
}
