#!/bin/sh
# A fifth machine beside the four of start.sh: its key, and its table in everyone's file. Then all start: the four go
# on with the models of their last checkpoints, for another hundred rounds, and erin begins.
set -eu
port=${1:-7700}
cd box

key=$(gossipfl keys new keys --name erin | sed -n 's/public_key = "\(.*\)"/\1/p')
sed 's/^rounds = 100/rounds = 200/' swarm.toml >more.toml && mv more.toml swarm.toml
cat >>swarm.toml <<END

[[node]]
name = "erin"
address = "127.0.0.1:$((port + 4))"
public_key = "$key"
END

for name in alice bob carol dave; do
    gossipfl node swarm.toml --name $name --set data.path=$name --out runs/$name --resume &
done
gossipfl node swarm.toml --name erin --set data.path=erin --out runs/erin &
wait
