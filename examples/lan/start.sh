#!/bin/sh
# Four nodes with keys and files of their own, on this machine's loopback. Leaves everything under box/.
set -eu
port=${1:-7700}
mkdir box && cd box

set --
number=0
for name in alice bob carol dave; do
    key=$(gossipfl keys new keys --name $name | sed -n 's/public_key = "\(.*\)"/\1/p')
    address=127.0.0.1:$((port + number))
    [ $name != dave ] || address=
    set -- "$@" --node "$name=$address,$key"
    number=$((number + 1))
done
gossipfl init "$@" -o swarm.toml
sed 's/^\[swarm\]/&\ncheckpoint_every = 20/' swarm.toml >more.toml && mv more.toml swarm.toml
printf '\n[security]\nencrypt = "on" # on the loopback, it would be off\n' >>swarm.toml
python3 ../cut.py alice bob carol dave erin # erin comes later: fifth.sh

for name in dave carol bob alice; do
    gossipfl node swarm.toml --name $name --set data.path=$name --out runs/$name &
done
wait
