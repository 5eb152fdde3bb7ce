#!/usr/bin/env bash
# The support agent's way to AcmeApp. Needs bash and curl. Writes JSON: the answer on
# stdout, a failure as {"error": "..."} on stderr.
#
# Exit codes: 0 done, 2 wrong use, 3 not found, 4 token refused, 5 the API failed, 6 the API can't be reached.
set -euo pipefail
# Bytes, not characters: no input is invalid in this locale.
export LC_ALL=C

usage() {
	cat <<'END'
acme-cli.sh user lookup EMAIL             the customer with that email address
acme-cli.sh user usage USER_ID            plan, calls used and remaining, renewal
acme-cli.sh tickets list USER_ID          the customer's tickets
acme-cli.sh tickets create USER_ID SUBJECT [TEXT]
                                          opens a ticket; without TEXT it is read from stdin
acme-cli.sh help                          this text

Environment: ACME_API_URL, ACME_API_TOKEN.
END
}

# fail CODE MESSAGE: MESSAGE is our own text, never input, so that it needs no escaping.
fail() {
	printf '{"error": "%s"}\n' "$2" >&2
	exit "$1"
}

# want COUNT USAGE ARGUMENTS...: exits unless there are COUNT arguments, none of them empty, or longer than the
# system lets an argument be.
want() {
	local count=$1 use=$2 argument
	shift 2
	[ $# -eq "$count" ] || fail 2 "wrong number of arguments, want: acme-cli.sh $use"
	for argument in "$@"; do
		[ -n "$argument" ] || fail 2 "an argument is empty, want: acme-cli.sh $use"
		[ ${#argument} -le 60000 ] || fail 2 "an argument is longer than 60000 bytes: shorten it"
	done
}

# An id becomes part of a URL's path: nothing but what ids are made of may get there.
want_id() {
	[[ $1 =~ ^[A-Za-z0-9_-]{1,64}$ ]] || fail 2 "that is no user id: they look like usr_1001, and user lookup tells them"
}

# call PATH CURL_ARGUMENTS...: calls the API. Input goes through --data-urlencode, which quotes it; the
# token goes through stdin, since everybody on a machine can read a process's arguments.
call() {
	local path=$1 answer status body
	shift
	answer=$(printf 'Authorization: Bearer %s\n' "$ACME_API_TOKEN" |
		curl --disable --silent --globoff --proto '=http,https' --connect-timeout 5 --max-time 20 --header @- \
			--write-out '\n%{http_code}' "$@" -- "${ACME_API_URL%/}$path") ||
		fail 6 "AcmeApp's API can not be reached (curl's exit code $?): try again, or tell the customer that it is down"
	status=${answer##*$'\n'}
	body=${answer%$'\n'*}
	body=${body%$'\n'}
	case $body in
	'{'* | '['*) ;;
	*) fail 5 "AcmeApp's API answered with status $status and something that is not JSON" ;;
	esac
	case $status in
	2??) printf '%s\n' "$body" ;;
	400) explain 2 "$body" ;;
	401 | 403) explain 4 "$body" ;;
	404) explain 3 "$body" ;;
	*) explain 5 "$body" ;;
	esac
}

explain() {
	printf '%s\n' "$2" >&2
	exit "$1"
}

check_environment() {
	command -v curl >/dev/null || fail 5 "curl is not installed"
	case ${ACME_API_URL:-} in
	http://* | https://*) ;;
	*) fail 5 "ACME_API_URL is not set to an http or https address" ;;
	esac
	[[ ${ACME_API_TOKEN:-} =~ ^[[:graph:]]+$ ]] || fail 4 "ACME_API_TOKEN is not set, or holds spaces"
}

main() {
	local command="${1:-} ${2:-}"
	case $command in
	'help ' | '--help ' | '-h ')
		usage
		return
		;;
	'user lookup' | 'user usage' | 'tickets list' | 'tickets create') shift 2 ;;
	*) fail 2 "unknown command: acme-cli.sh help lists them" ;;
	esac
	check_environment
	case $command in
	'user lookup')
		want 1 'user lookup EMAIL' "$@"
		call /v1/users --get --data-urlencode "email=$1"
		;;
	'user usage')
		want 1 'user usage USER_ID' "$@"
		want_id "$1"
		call "/v1/users/$1/usage"
		;;
	'tickets list')
		want 1 'tickets list USER_ID' "$@"
		want_id "$1"
		call "/v1/users/$1/tickets"
		;;
	'tickets create')
		[ $# -ne 2 ] || set -- "$@" "$(cat)"
		want 3 'tickets create USER_ID SUBJECT TEXT, with TEXT as the last argument or on stdin' "$@"
		want_id "$1"
		call "/v1/users/$1/tickets" --data-urlencode "subject=$2" --data-urlencode "text=$3"
		;;
	esac
}

main "$@"
