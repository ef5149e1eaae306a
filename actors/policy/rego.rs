//! Rego in the gateway's own process, by regorus.
//!
//! The policy is compiled once; each evaluation works on a clone of the compiled engine, which
//! shares everything that was compiled: 0.3 µs, and no state of one request can reach the next. The
//! embedded policy takes 23 µs. It runs on the blocking pool, some 15 µs more, and not on the thread
//! that serves: what a policy costs depends on its author and on the request, and a loop over a large
//! document must not hold up the uploads of everybody else. At most [`EVALUATIONS`] run at a time.
//!
//! regorus looks at its timer between statements, so an evaluation ends soon after the timeout; one
//! call of a built-in function is never interrupted. The request itself is answered in time either
//! way. There is no `http.send`, and nothing else that leaves the process: the features that bring
//! it are not compiled in.

use super::answer::{Answer, Verdict};
use super::sources::{Broken, Sources};
use arc_swap::ArcSwap;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Evaluations at a time in the process: some, so that a slow one holds up few others; few, so that
/// a policy that does not end takes no more threads than these.
const EVALUATIONS: usize = 8;

/// Units of work between two looks at the clock (some 20 ns each).
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

/// One version of a policy, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    engine: Engine,
    query: String,
    version: [u8; 32],
}

impl Policy {
    /// Compiles it. `query`: the rule whose value is the decision, such as `data.mizuchi.allow`;
    /// `limit`: how long an evaluation may take.
    ///
    /// Errors: what is wrong, with file and line.
    pub fn compile(sources: &Sources, query: &str, limit: Duration) -> Result<Self, Broken> {
        let mut engine = Engine::new();
        // A built-in function that fails makes the evaluation fail: with `undefined`, as OPA has it
        // by default, `not regex.match(…)` of a bad pattern would be true.
        engine.set_strict_builtin_errors(true);
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit,
            check_interval: CHECK_INTERVAL,
        });
        for (name, text) in &sources.policies {
            engine
                .add_policy(name.clone(), text.clone())
                .map_err(|error| Broken::Files(one_line(&error.to_string())))?;
        }
        for (name, text) in &sources.data {
            let wrong = |error: String| Broken::Data(format!("{name}: {error}"));
            let value = Value::from_json_str(text).map_err(|error| wrong(error.to_string()))?;
            engine.add_data(value).map_err(|error| wrong(error.to_string()))?;
        }
        // The first evaluation of anything compiles everything.
        engine
            .eval_query("true".to_owned(), false)
            .map_err(|error| Broken::Files(one_line(&error.to_string())))?;
        engine.compile_with_entrypoint(&Arc::from(query)).map_err(|error| {
            let error = one_line(&error.to_string());
            Broken::Query(format!("`{query}` does not name a rule of the policy: {error}"))
        })?;
        Ok(Policy { engine, query: query.to_owned(), version: sources.digest() })
    }

    /// A digest of what it was compiled from.
    pub fn version(&self) -> &[u8; 32] {
        &self.version
    }

    /// Evaluates it. Blocks for as long as that takes.
    fn evaluate(&self, input: &str) -> Verdict {
        let mut engine = self.engine.clone();
        let value = Value::from_json_str(input).and_then(|input| {
            engine.set_input(input);
            engine.eval_rule(self.query.clone())
        });
        match value {
            Ok(Value::Undefined) => Verdict::undecided("the rule is undefined for this request"),
            Ok(value) => match serde_json::to_value(&value) {
                Ok(result) => Verdict::of_result(&result),
                Err(error) => Verdict::undecided(&error.to_string()),
            },
            Err(error) => Verdict::undecided(&error.to_string()),
        }
    }
}

/// An error of regorus, which is a drawing of the line with a mark under it, as `file:line:column:
/// what`.
fn one_line(error: &str) -> String {
    let lines = error.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|'));
    let bare =
        |line: &str| line.trim_start_matches("--> ").trim_start_matches("error: ").to_owned();
    lines.map(bare).collect::<Vec<_>>().join(": ")
}

/// The policy in force, which a reload replaces.
#[derive(Debug)]
pub struct Rego {
    policy: ArcSwap<Policy>,
    turns: Arc<Semaphore>,
}

impl Rego {
    /// With this policy in force.
    pub fn new(policy: Policy) -> Self {
        Rego { policy: ArcSwap::from_pointee(policy), turns: Arc::new(Semaphore::new(EVALUATIONS)) }
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts another one in force: requests that are being decided keep the one that they have.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Asks the policy. A panic in it, or in the library, is undecided.
    pub(super) async fn ask(&self, policy: Arc<Policy>, input: String) -> Answer {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Answer::unwell("the evaluations have ended");
        };
        let evaluated = tokio::task::spawn_blocking(move || {
            let verdict = policy.evaluate(&input);
            drop(turn);
            verdict
        });
        match evaluated.await {
            Ok(verdict) => Answer::well(verdict),
            Err(error) => Answer::unwell(&format!("the evaluation ended: {error}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::Question;
    use super::super::question::tests::put;
    use super::super::sources::EMBEDDED;
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    fn sources(policies: &[&str], data: &[&str]) -> Sources {
        let named = |texts: &[&str]| {
            let name = |(at, text): (usize, &&str)| (format!("file{at}"), (*text).to_owned());
            texts.iter().enumerate().map(name).collect()
        };
        Sources { policies: named(policies), data: named(data) }
    }

    fn policy(text: &str, query: &str) -> Result<Policy, Broken> {
        Policy::compile(&sources(&[text], &[]), query, Duration::from_millis(100))
    }

    fn ask(policy: &Policy, question: &Question<'_>) -> Verdict {
        policy.evaluate(&serde_json::to_string(question).unwrap())
    }

    const ALLOW: &str = "data.mizuchi.allow";

    #[test]
    fn the_embedded_policy_gives_everyone_a_folder() {
        let policy = policy(EMBEDDED, ALLOW).unwrap();
        for (principal, key, allowed) in [
            ("anne", "anne/a", true),
            ("anne", "anne/", true),
            ("anne", "anne", false),
            ("anne", "annette/a", false),
            ("anne", "bob/a", false),
            ("anne", "/anne/a", false),
            ("anne/b", "anne/b/c", false),
        ] {
            let verdict = ask(&policy, &put(principal, key));
            assert_eq!(verdict == Verdict::Allowed, allowed, "{principal} {key}: {verdict:?}");
            assert_ne!(verdict.as_str(), "undecided", "{principal} {key}: {verdict:?}");
        }
        let bucket = Question { key: None, operation: "HeadBucket", ..put("anne", "") };
        assert_eq!(ask(&policy, &bucket), Verdict::Allowed);
        let anonymous = Question { authentication: "anonymous", ..put("anonymous", "anonymous/a") };
        assert_eq!(ask(&policy, &anonymous).as_str(), "denied");
        let anonymous = Question { authentication: "anonymous", ..bucket };
        assert_eq!(ask(&policy, &anonymous).as_str(), "denied");
        let decision = self::policy(EMBEDDED, "data.mizuchi.decision").unwrap();
        let Verdict::Denied { reason } = ask(&decision, &put("anne", "bob/a")) else { panic!() };
        assert!(reason.contains("own name"), "{reason}");
    }

    #[test]
    fn one_evaluation_leaves_nothing_to_the_next() {
        let policy = policy(EMBEDDED, ALLOW).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&policy, &put("anne", "anne/a")), Verdict::Allowed);
            assert_eq!(ask(&policy, &put("anne", "bob/a")).as_str(), "denied");
        }
    }

    #[test]
    fn data_is_there_and_files_are_merged() {
        let text = "package mizuchi\nallow if input.principal in data.writers\n";
        let data = [r#"{"writers": ["anne"]}"#, r#"{"others": []}"#];
        let limit = Duration::from_millis(100);
        let policy = Policy::compile(&sources(&[text], &data), ALLOW, limit).unwrap();
        assert_eq!(ask(&policy, &put("anne", "k")), Verdict::Allowed);
        // "An undefined result is no decision."
        assert_eq!(ask(&policy, &put("bob", "k")).as_str(), "undecided");
        for data in ["[1]", "{", r#"{"writers": 1} x"#] {
            let broken = Policy::compile(&sources(&[text], &[data]), ALLOW, limit).unwrap_err();
            assert!(matches!(broken, Broken::Data(_)), "{data}: {broken:?}");
        }
    }

    #[test]
    fn what_is_broken_says_which_setting() {
        let broken = policy("package mizuchi\nallow if {", ALLOW).unwrap_err();
        assert!(matches!(&broken, Broken::Files(text) if text.contains("file0")), "{broken:?}");
        let broken = policy("package mizuchi\nallow if x == 1\n", ALLOW).unwrap_err();
        assert!(
            matches!(&broken, Broken::Files(text) if text.starts_with("file0:2:")),
            "{broken:?}"
        );
        let broken = policy("package mizuchi\nallow if true\n", "data.mizuchi.alow").unwrap_err();
        assert!(matches!(&broken, Broken::Query(_)), "{broken:?}");
        let broken = policy("package mizuchi\nallow if true\n", "data.other").unwrap_err();
        assert!(matches!(&broken, Broken::Query(_)), "{broken:?}");
        // A function that is not compiled in, such as one that leaves the process.
        let text =
            "package mizuchi\nallow if http.send({\"url\": \"http://h\"}).status_code == 200\n";
        let left = policy(text, ALLOW).map(|policy| ask(&policy, &put("anne", "k")));
        assert!(!matches!(left, Ok(Verdict::Allowed | Verdict::Denied { .. })), "{left:?}");
    }

    #[test]
    fn what_fails_is_undecided_and_never_undefined() {
        let text = "package mizuchi\ndefault allow := false\n\
                    allow if not regex.match(input.headers.pattern, \"a\")\n";
        let policy = policy(text, ALLOW).unwrap();
        let mut question = put("anne", "k");
        question.headers.insert("pattern", "(".to_owned());
        assert_eq!(ask(&policy, &question).as_str(), "undecided");
        question.headers.insert("pattern", "a".to_owned());
        assert_eq!(ask(&policy, &question).as_str(), "denied");
    }

    #[test]
    fn an_evaluation_ends_with_its_limit() {
        let text = "package mizuchi\ndefault allow := false\n\
                    allow if {\n  some a in numbers.range(1, 3000)\n  \
                    some b in numbers.range(1, 3000)\n  some c in numbers.range(1, 3000)\n  \
                    a + b + c == 0\n}\n";
        let policy =
            Policy::compile(&sources(&[text], &[]), ALLOW, Duration::from_millis(50)).unwrap();
        let started = Instant::now();
        assert_eq!(ask(&policy, &put("anne", "k")).as_str(), "undecided");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn it_is_replaced_while_it_is_asked() {
        let rego = Rego::new(policy("package mizuchi\nallow := true\n", ALLOW).unwrap());
        let before = rego.policy();
        rego.replace(policy("package mizuchi\nallow := false\n", ALLOW).unwrap());
        let input = json!({}).to_string();
        let old = rego.ask(before, input.clone()).await;
        assert_eq!(old, Answer::well(Verdict::Allowed));
        let new = rego.ask(rego.policy(), input).await;
        assert_eq!(new.verdict.as_str(), "denied");
    }
}
