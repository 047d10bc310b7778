"""The gate in a whole run: a refused version is registered, not promoted, and the table stays the champion's."""

from mlflow import MlflowClient

from tests.integration.house import House, aemodel


def _alias(client: MlflowClient, alias: str) -> str:
    return str(client.get_model_version_by_alias("orders", alias).version)


def test_a_refused_version_is_registered_and_the_champion_goes_on_scoring(copy: House) -> None:
    strict = copy.variant(
        "strict", lambda t: t.replace("latent_dim: 4", "latent_dim: 2") + "gate: {min_gain_over_pca: 0.9}"
    )
    done = aemodel("run", strict, "--work-dir", copy.work, "--json")
    assert done.code == 3
    assert done.json["gate"]["passed"] is False and "the gate asks for +0.9" in done.json["gate"]["reasons"][0]
    assert done.json["model_version"] == "2" and done.json["alias"] is None
    assert done.json["changed"] is False and done.json["table_version"] == 1
    assert "REFUSED" in done.errors

    client = MlflowClient(f"sqlite:///{copy.work / 'mlflow.db'}")
    assert _alias(client, "champion") == "1"
    assert _alias(client, "challenger") == "2"
    assert "the gate asks for" in client.get_model_version("orders", "2").tags["aemodel.gate"]

    # Fewer latents explain less: worse than the champion on the same rows, though better than PCA of its own width.
    worse = copy.variant("worse", lambda t: t.replace("latent_dim: 4", "latent_dim: 1"))
    refused = aemodel("run", worse, "--work-dir", copy.work, "--json")
    assert refused.code == 3 and "from version 1's on the same" in refused.json["gate"]["reasons"][0]

    better = copy.variant("better", lambda t: t.replace("latent_dim: 4", "latent_dim: 6"))
    promoted = aemodel("run", better, "--work-dir", copy.work, "--json")
    assert promoted.code == 0 and promoted.json["alias"] == "champion", promoted.errors
    assert promoted.json["changed"] is True and promoted.json["table_version"] == 2
    assert _alias(client, "champion") == promoted.json["model_version"]
    behind = [float(client.get_model_version("orders", n).tags["aemodel.behind"]) for n in ("3", "4")]
    assert behind[0] > 0.005 and behind[1] == 0


def test_a_promotion_by_hand_and_its_roll_back(copy: House) -> None:
    strict = copy.variant(
        "strict", lambda t: t.replace("latent_dim: 4", "latent_dim: 2") + "gate: {min_gain_over_pca: 0.9}"
    )
    assert aemodel("train", strict, "--work-dir", copy.work).code == 3
    work = ("--work-dir", copy.work)

    promoted = aemodel("promote", copy.job, "2", "--reason", "narrow is enough", *work)
    assert promoted.code == 0 and "champion is version 2, before 1" in promoted.output
    scored = aemodel("score", copy.job, *work, "--json")
    assert scored.json["model_version"] == "2" and scored.json["table_version"] == 2

    back = aemodel("rollback", copy.job, "--reason", "it was not", *work)
    assert back.code == 0 and "champion is version 1, before 2" in back.output
    client = MlflowClient(f"sqlite:///{copy.work / 'mlflow.db'}")
    tags = client.get_model_version("orders", "2").tags
    assert tags["aemodel.rolled_back"] == "it was not" and tags["aemodel.promoted_by_hand"] == "narrow is enough"

    lenient = copy.variant("lenient", lambda t: t.replace("latent_dim: 4", "latent_dim: 2") + "gate: {enabled: false}")
    again = aemodel("train", lenient, *work, "--json")
    assert again.code == 3 and "rolled back by hand (it was not)" in again.json["gate"]["reasons"][0]
    assert _alias(client, "champion") == "1"

    nowhere = aemodel("rollback", copy.job, "--reason", "once more", *work)
    assert nowhere.code == 2 and "took over from none" in nowhere.errors
    unknown = aemodel("promote", copy.job, "77", "--reason", "a slip", *work)
    assert unknown.code == 2 and "no version '77' to promote" in unknown.errors
