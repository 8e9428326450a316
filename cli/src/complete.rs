//! What `kubectl campfire <TAB>` offers. kubectl asks a program `kubectl_complete-campfire` beside the plugin, with the words so far; it answers with a
//! word a line, and last `:4`: no file names (cobra's `ShellCompDirectiveNoFileComp`).

use clap::CommandFactory as _;

use crate::cli::{Cli, Scope};
use crate::cluster::Cluster;

/// The command that answers.
pub const COMMAND: &str = "__complete";

/// The answer to `words`, of which the last is unfinished.
pub async fn answer(scope: &Scope, words: &[String]) -> String {
    let offers = match wanted(words) {
        Wanted::Words(words) => words,
        Wanted::Pods => pods(scope, words).await,
        Wanted::Contexts => contexts(scope),
    };
    let begun = words.last().map_or("", String::as_str);
    let mut lines: Vec<&str> = offers.iter().map(String::as_str).filter(|offer| offer.starts_with(begun)).collect();
    lines.push(":4\n");
    lines.join("\n")
}

/// What may stand where the cursor is.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Words(Vec<String>),
    Pods,
    Contexts,
}

fn wanted(words: &[String]) -> Wanted {
    let command = Cli::command();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    if before.last().is_some_and(|word| word == "--context") {
        return Wanted::Contexts;
    }
    let verb = before.iter().find_map(|word| command.get_subcommands().find(|known| known.get_name() == word));
    if last.starts_with('-') {
        let own = verb.into_iter().flat_map(clap::Command::get_arguments).chain(command.get_arguments());
        return Wanted::Words(own.filter_map(|argument| argument.get_long().map(|long| format!("--{long}"))).collect());
    }
    match verb.map(clap::Command::get_name) {
        None => {
            let shown = command.get_subcommands().filter(|known| !known.is_hide_set());
            Wanted::Words(shown.map(|known| known.get_name().to_owned()).collect())
        }
        Some("why" | "ping" | "netcheck") => Wanted::Pods,
        Some("join") => Wanted::Contexts,
        Some(_) => {
            let values = verb.into_iter().flat_map(clap::Command::get_positionals).flat_map(clap::Arg::get_possible_values);
            Wanted::Words(values.map(|value| value.get_name().to_owned()).collect())
        }
    }
}

/// Pods with a sidecar; nothing, if they cannot be had: a completion says no errors.
async fn pods(scope: &Scope, words: &[String]) -> Vec<String> {
    let value = |names: [&str; 2]| words.windows(2).find(|pair| names.contains(&pair[0].as_str())).map(|pair| pair[1].clone());
    let namespace = value(["-n", "--namespace"]).or_else(|| scope.namespace.clone());
    let scope = Scope { namespace, context: value(["--context", "--context"]).into_iter().collect(), ..scope.clone() };
    let mut names = Vec::new();
    for cluster in Cluster::of(&scope).await.unwrap_or_default() {
        names.extend(cluster.members().await.unwrap_or_default().into_iter().map(|member| member.name));
    }
    names
}

fn contexts(scope: &Scope) -> Vec<String> {
    let read = scope.kubeconfig.as_ref().map_or_else(kube::config::Kubeconfig::read, kube::config::Kubeconfig::read_from);
    read.map(|kubeconfig| kubeconfig.contexts.into_iter().map(|context| context.name).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_flags_pods_and_contexts_are_offered_where_they_may_stand() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let Wanted::Words(verbs) = wanted(&words("")) else { panic!("verbs") };
        assert!(verbs.contains(&"status".to_owned()) && !verbs.contains(&COMMAND.to_owned()), "{verbs:?}");
        let Wanted::Words(flags) = wanted(&words("ping --")) else { panic!("flags") };
        assert!(flags.contains(&"--full".to_owned()) && flags.contains(&"--context".to_owned()), "{flags:?}");
        assert_eq!(wanted(&words("-n shop ping ")), Wanted::Pods);
        assert_eq!(wanted(&words("status --context ")), Wanted::Contexts);
        assert_eq!(wanted(&words("join ")), Wanted::Contexts);
        let Wanted::Words(shells) = wanted(&words("completion ")) else { panic!("shells") };
        assert!(shells.contains(&"bash".to_owned()), "{shells:?}");
    }

    #[tokio::test]
    async fn an_answer_ends_with_what_cobra_expects() {
        assert_eq!(answer(&Scope::default(), &["stat".to_owned()]).await, "status\n:4\n");
    }
}
