"""Which checkpoint a run goes on from when files in its folder are damaged."""

import errno
import os
import sys

import pytest
import tensorflow.compat.v1 as tf

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_run  # noqa: E402
from mnist_checkpoints import (  # noqa: E402
    SaveHook,
    adopt,
    check_fits,
    open_checkpoint,
    remove_leftovers,
)
from mnist_lock import locked  # noqa: E402
from mnist_run import InputError, replacing, write_json  # noqa: E402


def save(folder, *steps):
    """Checkpoints whose one variable tells their step."""
    with tf.Graph().as_default(), tf.Session() as session:
        value = tf.get_variable("value", [1000], tf.int64, tf.zeros_initializer())
        saver = tf.train.Saver()
        for step in steps:
            session.run(value.assign([step] * 1000))
            saver.save(session, os.path.join(str(folder), "model.ckpt"), step)


def value(checkpoint):
    return checkpoint.reader.get_tensor("value")[0]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(str(folder))}


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(bytes(found))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def keep(path):
    pass


INDEX, DATA = "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"
STATES = {
    "kept": keep,
    "empty": empty,
    "removed": remove,
    "junk": lambda path: path.write_bytes(b"junk"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "moved": lambda path: path.write_text('model_checkpoint_path: "/nowhere/model.ckpt-7"'),
}


DAMAGES = [(INDEX, keep), (INDEX, cut), (INDEX, empty), (INDEX, flip), (INDEX, remove)]
DAMAGES += [(DATA, cut), (DATA, empty), (DATA, flip), (DATA, remove)]


@pytest.mark.parametrize("state", list(STATES.values()), ids=list(STATES))
@pytest.mark.parametrize("name, damage", DAMAGES)
def test_newest_that_is_whole(name, damage, state, tmp_path):
    save(tmp_path, 0, 3, 7)
    damage(tmp_path / name)
    state(tmp_path / "checkpoint")
    before = contents(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert contents(tmp_path) == before
    wanted = 7 if damage is keep else 3
    assert checkpoint.step == wanted and value(checkpoint) == wanted

    adopt(checkpoint, str(tmp_path))
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / f"model.ckpt-{wanted}")
    # Without an index, there is nothing that looks like a checkpoint.
    unreadable = (damage, name) not in ((keep, INDEX), (remove, INDEX))
    assert len(checkpoint.broken) == unreadable
    assert all("model.ckpt-7: expected a readable" in line for line in checkpoint.broken)
    named = tf.train.get_checkpoint_state(str(tmp_path)).all_model_checkpoint_paths
    assert [os.path.basename(path) for path in named][:2] == ["model.ckpt-0", "model.ckpt-3"]


def test_none_that_is_whole(tmp_path):
    assert open_checkpoint(str(tmp_path / "nowhere")) is None
    assert open_checkpoint(str(tmp_path)) is None
    save(tmp_path, 0, 3)
    for step in (0, 3):
        cut(tmp_path / f"model.ckpt-{step}.index")
    before = contents(tmp_path)
    for _ in range(2):
        with pytest.raises(
            InputError, match="model.ckpt-3: expected a readable checkpoint"
        ) as error:
            open_checkpoint(str(tmp_path))
        assert "\n" not in str(error.value)
        assert contents(tmp_path) == before
        # That nothing names the one of step 3 makes no difference.
        before.pop("checkpoint", None)
        if (tmp_path / "checkpoint").exists():
            (tmp_path / "checkpoint").unlink()
    # The first one was under way when the run was killed: nothing is lost.
    (tmp_path / "model.ckpt-3.index").unlink()
    assert open_checkpoint(str(tmp_path)) is None


def test_one_that_is_not_yet_named(tmp_path):
    save(tmp_path, 0, 3)
    state = (tmp_path / "checkpoint").read_bytes()
    save(tmp_path, 7)
    (tmp_path / "checkpoint").write_bytes(state)
    adopt(open_checkpoint(str(tmp_path)), str(tmp_path))
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt-7")


def test_leftovers(tmp_path):
    save(tmp_path, 3)
    mine = ["notes.tmp", "model.ckpt-3.meta", "events.out.tfevents.1.tmp", "x.1.tmp"]
    left = ["model.ckpt-7.index.tempstate12", "model.ckpt-7.data-00000-of-00001.tempstate1234567"]
    left += ["checkpoint.tmp0123abcd", "model.ckpt-7.meta.tmp0123abcd", ".metrics.json.123.tmp"]
    for name in mine + left:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "model.ckpt-7_temp_0123abcd").mkdir()
    (tmp_path / "model.ckpt-7_temp_0123abcd" / "part").write_bytes(b"x")
    remove_leftovers(str(tmp_path))
    assert set(mine) < set(os.listdir(str(tmp_path)))
    assert not set(left + ["model.ckpt-7_temp_0123abcd"]) & set(os.listdir(str(tmp_path)))
    assert value(open_checkpoint(str(tmp_path))) == 3


def run_steps(folder, steps, saver_fails=False):
    """Makes steps under the hook, from the newest checkpoint on; returns where it saved."""
    saved = []
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        train = tf.assign_add(step, 1)
        saver = tf.train.Saver()
        hook = SaveHook(str(folder), saver, step)
        save = saver.save

        def noting(session, path, at):
            saved.append(at)
            if saver_fails and at:
                raise tf.errors.ResourceExhaustedError(None, None, "No space\n[[node save]]")
            return save(session, path, at)

        saver.save = noting
        creator = tf.train.ChiefSessionCreator(
            tf.train.Scaffold(saver=saver), checkpoint_dir=str(folder)
        )
        with tf.train.MonitoredSession(creator, [hook]) as session:
            for _ in range(steps):
                session.run(train)
        if saved:
            assert hook.saved_step == saved[-1]
    return saved


def test_when_it_saves(tmp_path):
    assert run_steps(tmp_path, 401) == [0, 200, 400, 401]
    # The one it comes from is not written again; the next are on the same grid.
    before = contents(tmp_path)
    assert run_steps(tmp_path, 0) == []
    after = contents(tmp_path)
    assert {name: after[name] for name in before if "ckpt" in name} == {
        name: before[name] for name in before if "ckpt" in name
    }
    assert run_steps(tmp_path, 200) == [600, 601]


def test_save_that_fails(tmp_path):
    with pytest.raises(InputError, match="model.ckpt-200: expected to write it, found: No space$"):
        run_steps(tmp_path, 300, saver_fails=True)
    assert open_checkpoint(str(tmp_path)).step == 0


def test_checkpoint_of_another_graph(tmp_path):
    def build(num_dims):
        return tf.get_variable("ctrs", [3, num_dims])

    with tf.Graph().as_default(), tf.Session() as session:
        build(2)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), 1)
    checkpoint = open_checkpoint(str(tmp_path))
    with tf.Graph().as_default():
        build(2)
        check_fits(checkpoint, "DIR")
    with tf.Graph().as_default():
        build(4)
        with pytest.raises(InputError, match=r"--model_dir=DIR.*ctrs of shape \[3, 4\].*\[3, 2\]"):
            check_fits(checkpoint, "DIR")
    with tf.Graph().as_default():
        tf.get_variable("other", [1])
        with pytest.raises(InputError, match="other of shape .*missing"):
            check_fits(checkpoint, "DIR")


def test_one_process_at_a_time(tmp_path):
    folder = str(tmp_path / "new" / "model")
    with locked(folder):
        with pytest.raises(InputError, match="--model_dir=.*no other process"):
            with locked(folder):
                raise AssertionError("two have the lock")
        with locked(str(tmp_path / "other")):
            pass
    with locked(folder):
        pass
    with pytest.raises(InputError, match="expected a folder to write in, found: "):
        (tmp_path / "file").write_bytes(b"")
        with locked(str(tmp_path / "file")):
            pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_file_that_cannot_be_written(call, tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(str(path), {"a": 1})
    before = contents(tmp_path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mnist_run.os, call, full)
    with pytest.raises(InputError, match="metrics.json: expected to write it, found: No space"):
        write_json(str(path), {"a": 2})
    with pytest.raises(ZeroDivisionError), replacing(str(path)) as beside:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(str(1 / 0))
    monkeypatch.undo()
    assert contents(tmp_path) == before
    write_json(str(path), {"a": 2})
    assert contents(tmp_path) == {"metrics.json": b'{\n  "a": 2\n}\n'}
