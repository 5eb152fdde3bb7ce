#!/usr/bin/env bash
# Starts the support agent with the company's API that it asks, runs two tasks of one session, and removes all that it
# made. `make demo` builds what it needs and calls it. Exits 0 only if both tasks succeeded.
#
# With ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN or CLAUDE_CODE_OAUTH_TOKEN set, the real model answers, and costs a few
# cents. Without one a scripted Messages API takes its place.
#
#   DEMO_BACKEND=docker|podman|local    instead of the first that works here
#   DEMO_RUNNER=FILE, DEMO_CLI=FILE     instead of bin/claude-runner and .tools/bin/claude
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
runner=${DEMO_RUNNER:-$root/bin/claude-runner}
cli=${DEMO_CLI:-$root/.tools/bin/claude}

work=    # a folder of this run's own
made=    # the folder that it is in, where that was not there before
pids=()  # what runs in the background, in the order it was started
server=  # the server's pid, once it is started
started= # the pid of what was started last

main() {
	trap 'cleanup $?' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	check_programs
	make_folder
	choose_model_api
	choose_backend
	start_company
	start_model_api
	start_server

	task 'Look up my account, email is alice@startup.io' growth
	task 'What plan did you say I am on?' growth
	say "Both tasks succeeded. Backend: $backend. Model API: $model_api."
}

say() { printf '%s\n' "$*"; }
fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

check_programs() {
	local program
	for program in curl go; do
		command -v "$program" >/dev/null || fail "$program is missing: install it (the agent's tool and this script need curl, the company's API is built with go)"
	done
	[ -x "$runner" ] || fail "$runner is missing: run make build"
	[ -x "$cli" ] || fail "$cli is missing: run make cli"
}

# Sandboxes of a runner that is root run as another user, who must be able to walk into the folder, and to run the
# agent's program. A checkout in root's home lets nobody in: then both are in a temporary folder.
make_folder() {
	local parent=$root/data
	[ -d "$parent" ] || made=$parent
	mkdir -p "$parent"
	if [ "$(id -u)" -eq 0 ] && ! open_to_all "$parent"; then
		parent=${TMPDIR:-/tmp}
		open_to_all "$parent" || parent=/tmp
	fi
	work=$(cd "$(mktemp -d "$parent/demo.XXXXXX")" && pwd -P)
	chmod 711 "$work"
	say "Everything is in $work until the end of the demo."
	say

	mkdir -m 755 "$work/bin"
	if [ "$(id -u)" -ne 0 ] || open_to_all "$(dirname "$cli")"; then
		ln -s "$cli" "$work/bin/claude"
	else
		ln "$cli" "$work/bin/claude" 2>/dev/null || cp "$cli" "$work/bin/claude"
	fi
	export PATH="$work/bin:$PATH"
}

# open_to_all FOLDER: every user may walk into it.
open_to_all() {
	local folder
	folder=$(cd "$1" && pwd -P)
	while :; do
		case $(ls -ld "$folder") in
		?????????[xt]*) ;;
		*) return 1 ;;
		esac
		[ "$folder" != / ] || return 0
		folder=$(dirname "$folder")
	done
}

# The choice is made by the variables that the runner reads.
choose_model_api() {
	if [ -n "${ANTHROPIC_API_KEY:-}${ANTHROPIC_AUTH_TOKEN:-}${CLAUDE_CODE_OAUTH_TOKEN:-}" ]; then
		scripted=
		model_api=${CLAUDE_RUNNER_MODEL_API__BASE_URL:-${ANTHROPIC_BASE_URL:-https://api.anthropic.com}}
		return
	fi
	scripted=yes
	model_api='scripted (no key is set)'
	say 'No key is set (ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN or CLAUDE_CODE_OAUTH_TOKEN): a scripted Messages API takes the'
	say "model's place. The agent, its sandbox, its tool and its memory are real; only the words come from script.yaml. It is"
	say 'free; the costs below are what the real model would ask for as many tokens.'
	say
	export ANTHROPIC_API_KEY=scripted
}

# The first of the agent's backends on which the agent's program starts. doctor tells which that is.
choose_backend() {
	configure
	backend=${DEMO_BACKEND:-}
	if [ -z "$backend" ]; then
		"$runner" doctor --config "$here/config.yaml" >"$work/doctor.log" 2>&1 || true
		say 'What works here (claude-runner doctor):'
		# What it says of a key is of no use where a script needs none.
		sed -e "${scripted:+/ credentials: /d}" -e 's/^/  /' "$work/doctor.log"
		say
		backend=$(sed -n 's/^.* agent support: runs on \([^ ]*\).*$/\1/p' "$work/doctor.log")
		[ -n "$backend" ] || fail 'no backend works here: doctor says above what to do'
	fi
}

# configure sets what is this run's own over config.yaml.
configure() {
	ACME_API_TOKEN=demo-$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
	export ACME_API_TOKEN
	export CLAUDE_RUNNER_DATA_DIR=$work/data CLAUDE_RUNNER_SERVER__LISTEN=127.0.0.1:0
	export CLAUDE_RUNNER_LOG__FORMAT=text CLAUDE_RUNNER_SHUTDOWN_GRACE=5s
	unset PORT AGENT_DIR SESSIONS_DIR
}

start_company() {
	(cd "$root" && CGO_ENABLED=0 go build -o "$work/bin/acme-api" ./examples/support-agent/acme-api)
	start acme-api "$work/bin/acme-api" --listen 127.0.0.1:0
	await acme-api 'AcmeApp API at '
	local port=${found##*:}
	export ACME_API_URL=http://host.docker.internal:$port
	# The agent may call the API's port on this machine, and nothing else.
	sed -e "s/3457/$port/" -e "s|template: \\./agent|template: $here/agent|" "$here/config.yaml" >"$work/config.yaml"
}

start_model_api() {
	[ -n "$scripted" ] || return 0
	start scripted "$runner" scripted --script "$here/script.yaml" --listen 127.0.0.1:0
	await scripted 'scripted Messages API at '
	export CLAUDE_RUNNER_MODEL_API__BASE_URL=http://127.0.0.1:${found##*:}
}

start_server() {
	start server "$runner" serve --config "$work/config.yaml"
	server=$started
	await server 'is ready" url='
	url=${found%% *}
	curl --disable --silent --fail --noproxy '*' --max-time 10 "$url/health" >"$work/health.json" ||
		fail "the server at $url is not healthy"
}

# start NAME COMMAND...: runs it in the background, its output in NAME.log.
start() {
	local name=$1
	shift
	: >"$work/$name.log" # await may look before the process does anything
	"$@" >>"$work/$name.log" 2>&1 </dev/null &
	started=$!
	pids+=("$started")
}

# await NAME TEXT: waits until what was started last has written TEXT, and sets found to the rest of that line.
await() {
	local tries=0
	found=
	while [ -z "$found" ]; do
		kill -0 "$started" 2>/dev/null || fail "$1 ended: $(cat "$work/$1.log")"
		[ $tries -lt 300 ] || fail "$1 is not ready after 30 s"
		tries=$((tries + 1))
		sleep 0.1
		found=$(sed -n -e "/$2/{" -e "s/^.*$2//p" -e q -e '}' "$work/$1.log")
	done
}

# task MESSAGE WORD: runs one task of the session on the server, live, and shows its answer, which must have WORD in it.
task() {
	say "== $1"
	# In the background, so that a signal is heeded at once.
	"$runner" run "$1" --server "$url" --agent support --session demo --backend "$backend" --env ACME_API_URL \
		>"$work/answer.json" </dev/null &
	started=$!
	pids+=("$started")
	local code=0
	wait "$started" || code=$?
	if [ $code -ne 0 ]; then
		cat "$work/answer.json"
		fail "the task failed (exit code $code)"
	fi
	sed -n -e '/^  "output": /,/^  }/{' -e 's/^  },$/  }/' -e p -e '}' "$work/answer.json"
	! grep -q '^  "output_error"' "$work/answer.json" || fail 'the answer does not have the form of output.schema.json'
	grep -qi "$2" "$work/answer.json" || fail "the answer says nothing of \"$2\""
	say "-> backend $backend, model API $model_api, cost \$$(LC_ALL=C printf '%.4f' "$(field cost)"), $(field duration) ms"
	say
}

# field NAME: a number or text at the top level of the answer.
field() { sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$work/answer.json"; }

# cleanup CODE: ends what was started, the last first, removes the folder, and exits with CODE.
cleanup() {
	local code=$1 i
	set +e # whatever fails here, the rest is still to be done
	trap - EXIT
	trap '' INT TERM HUP
	if [ "$code" -gt 128 ]; then
		printf '\ndemo: interrupted\n' >&2
	elif [ "$code" -ne 0 ] && [ -n "$server" ]; then
		printf '\ndemo: the log of the server:\n' >&2
		sed 's/^/  /' "$work/server.log" >&2
	fi
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do end "${pids[i]}"; done
	if [ -n "$work" ]; then
		chmod -R u+rwX "$work" 2>/dev/null
		rm -rf "$work"
	fi
	[ -z "$made" ] || rmdir "$made" 2>/dev/null # something else may have come into it
	exit "$code"
}

# end PID: asks it to end, and kills it after 15 seconds.
end() {
	local tries=0
	kill "$1" 2>/dev/null || return 0
	while kill -0 "$1" 2>/dev/null; do
		if [ $tries -eq 150 ]; then
			kill -KILL "$1" 2>/dev/null
		fi
		tries=$((tries + 1))
		sleep 0.1
	done
}

main
